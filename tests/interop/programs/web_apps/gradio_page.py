"""A page of Gradio's: what is submitted comes back in its stream of events."""

import gradio  # type: ignore[import-not-found]  # installed apart (scripts/web_judges)


def greet(name: str) -> str:
    return f"Hello {name}"


gradio.Interface(greet, gradio.Textbox(label="Name"), gradio.Textbox(label="Greeting")).launch()
