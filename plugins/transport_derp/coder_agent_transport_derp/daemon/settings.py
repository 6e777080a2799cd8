"""The section ``[plugins.derp]``. Apart from what it means (options.py): every program checks it, few run a relay."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr

MAX_DRAIN = 3600.0


class RelayProgramSettings(BaseModel):
    """What `coder derp` can be told beside ``[plugins.transport_derp]`` (key, limits, mesh key). Flags have the same
    names with dashes."""

    model_config = ConfigDict(extra="forbid")

    address: str = Field("", description="host:port to listen on; default 0.0.0.0:443 with TLS, 127.0.0.1:3340 without")
    tls_cert_file: str = Field("", description="PEM file: certificate, then its chain; read again on SIGHUP")
    tls_key_file: str = Field("", description="PEM file: the certificate's private key")
    stun_address: str = Field("", description="host:port for STUN (UDP), or `disable`; default: same host, port 3478")
    metrics_address: str = Field("", description="host:port for Prometheus figures at /metrics; default none")
    mesh_with: list[str] = Field(
        default_factory=list, description="URLs of the region's other relays (needs relay_mesh_key)"
    )
    token: SecretStr = Field(SecretStr(""), description="clients must show this token in a header")
    verify_url: str = Field("", description="ask this URL about every client, as stock derper's --verify-client-url")
    verify_fail_open: bool = Field(False, description="let clients in while that URL does not answer")
    coder_url: str = Field("", description="admit only the peers that this coder server knows")
    drain_seconds: float = Field(10.0, ge=0, le=MAX_DRAIN, description="how long to go on relaying after SIGTERM")
