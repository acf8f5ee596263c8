"""The page: what stands on it, and what is wired to what.

What happens when something is pressed is in ``erarec.page``; what only the browser can do (play a stretch,
draw the card, count guesses) in ``assets/page.js``.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported

import gradio as gr
from gradio.i18n import I18nData

from erarec import figures, page, panels
from erarec.texts import ENGLISH, LANGUAGES, Texts

ASSETS = Path(__file__).parent / "assets"
EXAMPLES = {path.stem: str(path) for path in sorted((ASSETS / "examples").glob("*.mp3"))}  # "1920s", ...
CACHE_SECONDS = 3600  # uploads and recordings are deleted after an hour
FIRST_GUESS, LAST_GUESS = 1920, 2025

SUGGESTIONS = """
<ul data-for="${field}" role="listbox" hidden></ul>
<div class="visually-hidden" role="status"></div>
"""
CLOSE_PANELS = "() => Array(3).fill({__type__: 'update', open: false})"
PRIVATE = {"api_visibility": "private"}  # of what only the page itself may ask


class Labels:
    """Texts of Gradio's own components, which the browser translates: collected while the page is built."""

    def __init__(self) -> None:
        self.translations: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}

    def __call__(self, template: str, **values: Any) -> I18nData:
        # A name that Gradio's translations take: no dots, which would lead into a subtree.
        key = "".join(sign if sign.isalnum() else "_" for sign in ENGLISH(template, **values))
        for language, texts in self.translations.items():
            texts[key] = Texts(language)(template, **values)
        return I18nData(key)


label = Labels()


def theme() -> gr.themes.Base:
    # Gradio carries this font itself; its semi-bold file lacks most letters, so bold stands in for it.
    font = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")
    return gr.themes.Default(primary_hue="pink", neutral_hue="stone", font=font, text_size="lg").set(
        button_primary_background_fill=figures.ANSWER_COLOUR,
        button_primary_background_fill_dark=figures.ANSWER_COLOUR,
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_500",
    )


def suggestions(field: str) -> gr.HTML:
    """The list under an artist's field, asked of the server while one types."""
    return gr.HTML(
        html_template=SUGGESTIONS,
        js_on_load=(ASSETS / "suggestions.js").read_text(),
        server_functions=[page.suggest],
        apply_default_css=False,
        elem_classes=["suggestions"],
        field=field,
    )


def artist_field(name: str, text: Any) -> gr.Textbox:
    with gr.Column(elem_classes=["artist-field"]):
        box = gr.Textbox(
            value="",  # a default, so that clients of the API may leave it out
            label=text,
            placeholder=label("Start typing a name"),
            max_lines=1,
            elem_id=name,
        )
        suggestions(name)
    return box


def static_texts(say: Texts) -> list[str]:
    """What stands on the page from the beginning, in the order of ``build``'s ``fixed``."""
    known = page.known_map(page.DEFAULT_MODEL)
    return [
        f"<h1>{say('What year is this music from?')}</h1>"
        f"<p>{say('Play it a recording. It names the year, and shows what it went by.')}</p>",
        panels.message(say("One tune, eight decades: hear what it listens for."), "aside"),
        panels.heading(say("What it went by")),
        panels.heading(say("Where it lies")),
        panels.decade_toggles(known, say) + panels.message(panels.map_caption(known, say), "aside"),
        panels.heading(say("Most like it")),
        panels.share_buttons(say),
        panels.heading(say("Three models, one recording"))
        + panels.message(say("From the one that reads about the artist to the plainest."), "aside"),
        panels.heading(say("Somebody else plays"))
        + panels.message(say("The same sound, told another name: does it believe its ears?"), "aside"),
        panels.heading(say("Another sound"))
        + panels.message(say("The same music as an old radio or a modern master would give it."), "aside"),
        panels.message(
            say("Let it listen along: after three seconds the needle moves, and then every two or three."),
            "aside",
        ),
        panels.needle(None, 0, say),
        panels.browser_texts(say)
        + panels.message(
            say("Recordings stay on the machine that runs this page and are deleted within two hours."),
            "aside",
        ),
    ]


def tab(text: Any, name: str) -> gr.Tab:
    """A tab that the page's address remembers."""
    made = gr.Tab(text, id=name, render_children=True)
    made.select(None, js=f"() => window.erarec?.turnTo('{name}')", **PRIVATE)
    return made


def build() -> gr.Blocks:
    page.recogniser(page.DEFAULT_MODEL)  # loaded here, so that the first answer comes fast
    texts = iter(static_texts(ENGLISH))
    fixed: list[gr.HTML] = []

    def fixed_text(**options: Any) -> gr.HTML:
        fixed.append(gr.HTML(next(texts), **options))
        return fixed[-1]

    with gr.Blocks(
        title="erarec: hear a recording, name its year",
        analytics_enabled=False,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as blocks:
        fixed_text(elem_classes=["masthead"])
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_id="input-column"):
                audio = gr.Audio(
                    label=label("Recording"),
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    elem_id="audio-input",
                )
                fixed_text()
                with gr.Row(elem_id="examples"):
                    examples = {
                        name: gr.Button(label("{year}s", year=name[:4]), size="sm", elem_id=f"example-{name}")
                        for name in EXAMPLES
                    }
                    surprise = gr.Button(label("Surprise me"), size="sm", elem_id="surprise-button")
                artist = artist_field("artist-input", label("Artist (optional)"))
                about, tags = gr.State(page.About()), gr.State(page.Tags())
                button = gr.Button(
                    label("Name the year"),
                    variant="primary",
                    size="lg",
                    elem_id="predict-button",
                    elem_classes=["asks"],
                )
                stop = stop_button()
                source = gr.HTML(page.nobody(ENGLISH), elem_id="biography-source")
                with gr.Accordion(label("What it reads about the artist")) as biography_panel:
                    biography = gr.Textbox(
                        value="",
                        label=label("Biography (optional)"),
                        placeholder=label("Paste one here, and it is read instead of the library's."),
                        lines=4,
                        max_lines=8,
                        elem_id="biography-input",
                    )
                    ask_wikipedia = gr.Button(
                        label("Look up on Wikipedia"), size="sm", elem_id="wikipedia-button"
                    )
                    meant = gr.Radio(
                        [], label=label("Who is meant"), visible=False, elem_id="wikipedia-choices"
                    )
                with gr.Accordion(label("Guess first")) as guess_panel:
                    guessing = gr.Checkbox(
                        False, label=label("I guess before it answers"), elem_id="guessing"
                    )
                    guessed = gr.Slider(
                        FIRST_GUESS, LAST_GUESS, 1975, step=1, label=label("My guess"), elem_id="guess-input"
                    )
                    gr.HTML("<p id='tally' class='aside' role='status'></p>")
                with gr.Accordion(label("Another model")) as model_panel:
                    model = gr.Radio(
                        [
                            (label("Sound and artist: the best answers (AudioArt-MMC)"), "audioart-mmc"),
                            (label("Sound alone, taught to tell eras apart (Audio-SUC)"), "audio-suc"),
                            (label("Sound alone, the plain baseline (Audio-CNN)"), "audio-cnn"),
                        ],
                        value=page.DEFAULT_MODEL,
                        label=label("Model"),
                        elem_id="model-input",
                    )
            with gr.Column(scale=5, min_width=320):
                with gr.Tabs(elem_id="tabs") as tabs:
                    with tab(label("Listen"), "listen"):
                        outputs = answer_panel(fixed_text)
                    with tab(label("What if"), "what-if"):
                        what_if(fixed_text, audio, artist, biography, about, model)
                    with tab(label("Live"), "live"):
                        live(fixed_text)
        fixed_text()

        # What is in an accordion that starts closed is not on the page, and has no value, until it is opened.
        panels_below = [biography_panel, guess_panel, model_panel]
        blocks.load(None, None, panels_below, js=CLOSE_PANELS, **PRIVATE)
        blocks.load(
            page.greet(static_texts), None, [*fixed, *outputs, source], show_progress="hidden", **PRIVATE
        )
        blocks.load(
            page.restore(EXAMPLES), None, [artist, model, audio, tabs], show_progress="hidden", **PRIVATE
        )

        answering = ask_model(
            "input-column",
            [button.click, artist.submit],
            page.show,
            [audio, artist, biography, about, model, guessing, guessed, tags],
            outputs,
            stop,
            show_progress_on=outputs[0],
        )
        answering.success(None, js="() => window.erarec.answered()", **PRIVATE)
        wire_artist(artist, audio, biography, about, tags, source, ask_wikipedia, meant)
        for name, example in examples.items():
            example.click(
                page.take(EXAMPLES[name]), None, [audio, artist, tags], show_progress="hidden", **PRIVATE
            )
        drawn = surprise.click(page.surprise, model, outputs, **PRIVATE)
        drawn.success(None, js="() => window.erarec.answered()", **PRIVATE)
        wire_address(artist, model, audio, examples)
        for_programs(audio, artist, biography, model)
    return blocks


def stop_button() -> gr.Button:
    return gr.Button(label("Stop"), elem_classes=["stops"])


def ask_model(
    place: str, triggers: list, answer: Any, inputs: list, outputs: list, stop: gr.Button, **options: Any
) -> Any:
    """Asks the model; the Stop of that place (an element's id) is shown while there is something to stop."""
    gr.on(triggers, None, js=f"() => window.erarec.ask('{place}', true)", **PRIVATE)
    answering = gr.on(
        triggers,
        answer,
        inputs,
        outputs,
        concurrency_id="model",
        trigger_mode="always_last",
        **options,
        **PRIVATE,
    )
    answering.then(None, js=f"() => window.erarec.ask('{place}', false)", **PRIVATE)
    stop.click(None, cancels=[answering], js=f"() => window.erarec.stopped('{place}')", **PRIVATE)
    return answering


def answer_panel(fixed_text: Any) -> list[Any]:
    """The answer and its reasons; returns what ``page.show`` fills, in its order."""
    hint, years, caption, reasons, embedding_map, near, *_ = page.show_first(ENGLISH)
    plain: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Column(elem_id="answer-panel"):
        answer = gr.HTML(hint, elem_id="answer")
        distribution = gr.Plot(years, elem_id="era-distribution", **plain)
        decades = gr.HTML(caption, elem_id="decades")
    with gr.Column(elem_id="attention-panel"):
        fixed_text()
        attention = gr.HTML(reasons, elem_id="attention")
    with gr.Row(elem_id="map-panel"):
        with gr.Column(scale=3, min_width=320):
            fixed_text()
            whole_map = gr.Plot(embedding_map, elem_id="embedding-map", **plain)
            fixed_text()
        with gr.Column(scale=2, min_width=300):
            fixed_text()
            neighbours = gr.HTML(near, elem_id="neighbours")
    fixed_text(elem_id="share")
    with gr.Accordion(label("Numbers"), open=False):
        numbers = gr.JSON(label=label("What the API answers"), elem_id="numbers")
    data = gr.HTML("", elem_id="answer-data")
    return [answer, distribution, decades, attention, whole_map, neighbours, numbers, data]


def what_if(fixed_text: Any, audio: Any, artist: Any, biography: Any, about: Any, model: Any) -> None:
    """The same recording, with one thing changed."""
    plain: dict[str, Any] = {"show_label": False, "container": False}
    player: dict[str, Any] = {"interactive": False, "buttons": [], "visible": False, "min_width": 240}
    with gr.Column(elem_id="models", elem_classes=["experiment"]):
        fixed_text()
        ask = gr.Button(label("Ask all three"), size="sm", elem_id="compare-models", elem_classes=["asks"])
        stop = stop_button()
        table = gr.HTML(elem_id="models-table")
        curves = gr.Plot(elem_id="models-curves", visible=False, **plain)
    given = [audio, artist, biography, about]
    ask_model("models", [ask.click], page.compare_models, given, [curves, table], stop)
    with gr.Column(elem_id="artists", elem_classes=["experiment"]):
        fixed_text()
        other = artist_field("other-artist-input", label("Another artist"))
        ask = gr.Button(
            label("Tell it that name"), size="sm", elem_id="compare-artists", elem_classes=["asks"]
        )
        stop = stop_button()
        table = gr.HTML(elem_id="artists-table")
        curves = gr.Plot(elem_id="artists-curves", visible=False, **plain)
    asking = [ask.click, other.submit]
    ask_model("artists", asking, page.compare_artists, [*given, other], [curves, table], stop)
    with gr.Column(elem_id="sounds", elem_classes=["experiment"]):
        fixed_text()
        choices = [(label(name), change) for change, name in page.changes(ENGLISH).items()]
        change = gr.Radio(
            choices, label=label("Play it through"), elem_id="change-input", elem_classes=["asks"]
        )
        stop = stop_button()
        with gr.Row():
            unchanged = gr.Audio(label=label("Unchanged"), elem_id="unchanged-sound", **player)
            changed = gr.Audio(label=label("Changed"), elem_id="changed-sound", **player)
        table = gr.HTML(elem_id="sounds-table")
        curves = gr.Plot(elem_id="sounds-curves", visible=False, **plain)
    answers = [unchanged, changed, curves, table]
    ask_model("sounds", [change.input], page.compare_sounds, [audio, change, model], answers, stop)
    stop.click(None, None, change, js="() => null", **PRIVATE)  # the same one can be chosen again


def live(fixed_text: Any) -> None:
    """The microphone, and a needle that follows it."""
    fixed_text()
    microphone = gr.Audio(
        label=label("Microphone"), sources=["microphone"], streaming=True, type="numpy", elem_id="live-input"
    )
    needle = fixed_text(elem_id="needle")
    recording = gr.State(page.Recording())
    microphone.start_recording(page.start_listening, None, recording, **PRIVATE)
    microphone.stream(
        page.listen,
        [microphone, recording],
        [needle, recording],
        stream_every=1,
        show_progress="hidden",
        concurrency_limit=None,  # each stream is one long job: with a limit, one person at a time
        **PRIVATE,
    )
    microphone.stop_recording(
        page.stop_listening, recording, [needle, recording], show_progress="hidden", **PRIVATE
    )


def wire_artist(
    artist: Any, audio: Any, biography: Any, about: Any, tags: Any, source: Any, button: Any, meant: Any
) -> None:
    """The artist's name from the file's tags, the biography from the name, or from Wikipedia."""
    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "queue": False,
        "trigger_mode": "always_last",
        **PRIVATE,
    }
    # Not ``change``: a recording that was trimmed has lost its tags, and is still the same.
    gr.on([audio.upload, audio.clear], page.fill_artist, [audio, artist, tags], [artist, tags], **quiet)
    artist.change(page.describe, [artist, biography, about], [biography, about, meant, source], **quiet)
    # Not ``input``: Gradio does not tell that of what is pasted or deleted.
    biography.change(page.written, [biography, artist, about], source, **quiet)
    found = [biography, about, meant, source]
    asked = button.click(page.look_up, [artist, about], found, concurrency_limit=8, **PRIVATE)
    chosen = meant.input(page.look_up_title, [artist, about, meant], found, concurrency_limit=8, **PRIVATE)
    # An article that comes late is not about the artist who is named now.
    artist.change(None, cancels=[asked, chosen], **PRIVATE)


def wire_address(artist: Any, model: Any, audio: Any, examples: dict[str, Any]) -> None:
    """The page's address says what is asked, so that a link brings it back; ``page.restore`` reads it."""
    remember = "window.erarec?.remember"
    gr.on(
        [artist.change, model.change],
        None,
        [artist, model],
        js=f"(artist, model) => {remember}({{artist, model: model === '{page.DEFAULT_MODEL}' ? '' : model}})",
        **PRIVATE,
    )
    for name, button in examples.items():
        button.click(None, js=f"() => {remember}({{example: '{name}'}})", **PRIVATE)
    gr.on(
        [audio.upload, audio.clear, audio.start_recording],
        None,
        js=f"() => {remember}({{example: ''}})",
        **PRIVATE,
    )


def for_programs(audio: Any, artist: Any, biography: Any, model: Any) -> None:
    """Named endpoints, for gradio_client and curl: nothing of these is shown."""
    numbers, files = gr.JSON(visible=False), gr.File(file_count="multiple", visible=False)
    hidden = gr.Button(visible=False)
    hidden.click(
        page.predict, [audio, artist, biography, model], numbers, api_name="predict", concurrency_id="model"
    )
    hidden.click(page.annotate, [files, model], numbers, api_name="annotate", concurrency_id="model")
    hidden.click(page.nearest, [audio, model], numbers, api_name="nearest", concurrency_id="model")


gr.set_static_paths([ASSETS / "examples"])
demo = build()

if __name__ == "__main__":
    has_display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    demo.launch(
        inbrowser=has_display,
        theme=theme(),
        css=f":root {{ --answer: {figures.ANSWER_COLOUR}; }}",  # for page.css and page.js
        css_paths=ASSETS / "page.css",
        js=(ASSETS / "page.js").read_text(),
        i18n=gr.I18n(**label.translations),
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
