"""The page: what stands on it, and what happens when the button is pressed.

Everything shown is made by ``erarec.figures``; everything known comes from ``erarec.load``.
"""

import os
import sys
from functools import cache
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported

import gradio as gr

import erarec
from erarec import figures
from erarec.artist import compose_biography
from erarec.prediction import EraPrediction, UnusableAudio

ASSETS = Path(__file__).parent / "assets"
CACHE_SECONDS = 3600  # uploads and recordings are deleted after an hour

MODEL_CHOICES = [
    ("Sound and artist – the best answers (AudioArt-MMC)", "audioart-mmc"),
    ("Sound alone, taught to tell eras apart (Audio-SUC)", "audio-suc"),
    ("Sound alone, the plain baseline (Audio-CNN)", "audio-cnn"),
]
SUGGESTIONS = """
<ul id="artist-suggestions" role="listbox" aria-label="Artists" hidden></ul>
<div class="visually-hidden" role="status"></div>
"""
CLOSE_PANELS = "() => Array(2).fill({__type__: 'update', open: false})"
# On a phone the answer stands below the button, out of sight.
SCROLL_TO_ANSWER = """
() => { if (innerWidth < 900) document.getElementById("answer").scrollIntoView({behavior: "smooth"}) }
"""
HINT = "Give me a recording, and I will name its year."
NO_AUDIO = "There is no recording yet: upload one, or record some music with the microphone."

DEFAULT_MODEL = erarec.MODELS[0]
recogniser = cache(erarec.load)


def hear(audio: str | None, artist: str | None, biography: str | None, model: str) -> EraPrediction:
    if audio is None:
        raise UnusableAudio(NO_AUDIO)
    return recogniser(model).predict(audio, artist=artist, biography=biography)


def predict(audio: str | None, artist: str | None, biography: str | None, model: str) -> dict:
    """When a recording was made, by its sound and, if given, its artist: the JSON of EraPrediction."""
    try:
        return hear(audio, artist, biography, model).to_dict()
    except UnusableAudio as problem:
        raise gr.Error(str(problem), print_exception=False) from problem


def show(audio: str | None, artist: str | None, biography: str | None, model: str) -> tuple:
    """What the right side shows, in the order of its components."""
    try:
        prediction = hear(audio, artist, biography, model)
    except UnusableAudio as problem:
        return (figures.message(str(problem), "problem"), *show_nothing(model))
    return (
        figures.answer(prediction),
        figures.message(figures.year_caption(prediction), "aside"),
        figures.year_figure(prediction),
        figures.attention(prediction),
        figures.map_figure(recogniser(model).map, prediction),
        figures.neighbours(prediction),
        prediction.to_dict(),
    )


def show_nothing(model: str) -> tuple:
    """What stands below the answer while there is none."""
    known = recogniser(model).map
    return (
        figures.message(figures.known_years_caption(known), "aside"),
        figures.known_years_figure(known),
        figures.message("How much the sound and the artist weighed, which seconds and which words.", "aside"),
        figures.map_figure(known),
        figures.message("The ten recordings most like yours.", "aside"),
        None,
    )


def suggest(text: str) -> list[str]:
    """Artists whose names begin with, hold or look like what is being typed."""
    return recogniser(DEFAULT_MODEL).library.suggest(text)


def biography_in_use(artist: str | None, biography: str | None) -> str:
    """Which text about the artist will be read."""
    if biography and biography.strip():
        return figures.message("Your own text about the artist will be read.", "aside")
    if not artist or not artist.strip():
        return figures.message("Without an artist, the sound alone will answer.", "aside")
    found = recogniser(DEFAULT_MODEL).library.find(artist).artist
    if found is None:
        return figures.message("Not in the library: the sound alone will answer.", "aside")
    text = compose_biography(found) or f"{found.name}, of whom only the name is known."
    return figures.message(f"From the library: “{text}”", "aside")


def theme() -> gr.themes.Base:
    # Gradio carries this font itself; its semi-bold file lacks most letters, so bold stands in for it.
    font = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")
    return gr.themes.Default(primary_hue="pink", neutral_hue="stone", font=font, text_size="lg").set(
        button_primary_background_fill=figures.ANSWER_COLOUR,
        button_primary_background_fill_dark=figures.ANSWER_COLOUR,
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_500",
    )


def build() -> gr.Blocks:
    recogniser(DEFAULT_MODEL)  # loaded here, so that the first answer comes fast
    caption, distribution, attention, embedding_map, neighbours, _ = show_nothing(DEFAULT_MODEL)
    with gr.Blocks(
        title="erarec: hear a recording, name its year",
        analytics_enabled=False,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as page:
        gr.HTML(
            "<h1>What year is this music from?</h1>"
            "<p>Play it a recording. It names the year, says how sure it is, and shows what it went by.</p>",
            elem_classes=["masthead"],
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_id="input-column"):
                audio = gr.Audio(
                    label="Recording",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    elem_id="audio-input",
                )
                with gr.Column(elem_id="artist-field"):
                    artist = gr.Textbox(
                        value="",  # a default, so that clients of the API may leave it out
                        label="Artist (optional)",
                        placeholder="Start typing a name",
                        max_lines=1,
                        elem_id="artist-input",
                    )
                    gr.HTML(
                        html_template=SUGGESTIONS,
                        js_on_load=(ASSETS / "suggestions.js").read_text(),
                        server_functions=[suggest],
                        apply_default_css=False,
                        elem_id="artist-suggestions-host",
                    )
                source = gr.HTML(biography_in_use("", ""), elem_id="biography-source")
                button = gr.Button("Name the year", variant="primary", size="lg", elem_id="predict-button")
                with gr.Accordion("Another text about the artist") as biography_panel:
                    biography = gr.Textbox(
                        value="",
                        label="Biography (optional)",
                        placeholder="Paste one here, and it is read instead of the library's.",
                        lines=4,
                        max_lines=8,
                        elem_id="biography-input",
                    )
                with gr.Accordion("Another model") as model_panel:
                    model = gr.Radio(MODEL_CHOICES, value=DEFAULT_MODEL, label="Model", elem_id="model-input")
            with gr.Column(scale=5, min_width=320):
                with gr.Column(elem_id="answer-panel"):
                    outputs = [
                        gr.HTML(figures.message(HINT), elem_id="answer"),
                        gr.HTML(caption),
                        gr.Plot(distribution, show_label=False, container=False, elem_id="era-distribution"),
                    ]
                with gr.Column(elem_id="attention-panel"):
                    gr.HTML("<h2>What it went by</h2>")
                    outputs += [gr.HTML(attention, elem_id="attention")]
                with gr.Row(elem_id="map-panel"):
                    with gr.Column(scale=3, min_width=320):
                        gr.HTML("<h2>Where it lies</h2>")
                        outputs += [
                            gr.Plot(embedding_map, show_label=False, container=False, elem_id="embedding-map")
                        ]
                        known = recogniser(DEFAULT_MODEL).map
                        gr.HTML(figures.message(figures.map_caption(known), "aside"))
                    with gr.Column(scale=2, min_width=300):
                        gr.HTML("<h2>Most like it</h2>")
                        outputs += [gr.HTML(neighbours, elem_id="neighbours")]
                with gr.Accordion("Numbers", open=False):
                    outputs += [numbers := gr.JSON(label="What the API answers", elem_id="numbers")]
        gr.HTML(
            figures.message(
                "Recordings stay on the machine that runs this page and are deleted within two hours.",
                "aside",
            ),
        )

        # What is in an accordion that starts closed is not on the page, and has no value, until it is opened.
        page.load(None, None, [biography_panel, model_panel], js=CLOSE_PANELS, api_visibility="private")
        inputs = [audio, artist, biography, model]
        gr.on(
            [button.click, artist.submit],
            show,
            inputs,
            outputs,
            api_visibility="private",
            show_progress_on=outputs[0],
            concurrency_id="model",
        ).then(None, js=SCROLL_TO_ANSWER, api_visibility="private")
        # Clients get the numbers alone: this button is never shown.
        gr.Button(visible=False).click(predict, inputs, numbers, api_name="predict", concurrency_id="model")
        gr.on(
            [artist.change, biography.change],
            biography_in_use,
            [artist, biography],
            source,
            api_visibility="private",
            show_progress="hidden",
            queue=False,
            trigger_mode="always_last",
        )
    return page


demo = build()

if __name__ == "__main__":
    has_display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    demo.launch(
        inbrowser=has_display,
        theme=theme(),
        css_paths=ASSETS / "page.css",
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
