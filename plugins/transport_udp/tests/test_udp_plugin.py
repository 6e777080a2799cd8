"""The plugin as the program finds it: hooks, settings, environment."""

from __future__ import annotations

import pytest
from coder_agent_transport_udp import plugin
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory
from pydantic import ValidationError

from coder_agent.hooks import build_plugin_manager, load_settings


def settings_from(environ: dict[str, str]) -> UdpSettings:
    host = build_plugin_manager(discover=False, extra=[(plugin.NAME, plugin)])
    (factory,) = plugin.coder_transports(load_settings(host, environ=environ))
    assert isinstance(factory, UdpTransportFactory)
    return factory.settings


def test_defaults_use_all_that_the_kernel_offers() -> None:
    settings = settings_from({})
    assert settings == UdpSettings()
    assert settings.use_gso
    assert settings.use_gro


def test_offload_is_switched_off_by_one_variable() -> None:
    settings = settings_from({"CODER_PLUGIN_TRANSPORT_UDP__OFFLOAD": "off"})
    assert not settings.use_gso
    assert not settings.use_gro


@pytest.mark.parametrize("wrong", [{"port": 65536}, {"offload": "maybe"}, {"receive_buffer": 1}, {"prot": 1}])
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UdpSettings.model_validate(wrong)
