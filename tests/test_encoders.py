"""The towers and the reader of biographies: right by reference, and deaf to padding."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, melody, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_tagger import FRAMES, REFERENCE, reference, sounds

from erarec import encoders
from erarec.artist import ArtistLibrary, compose_biography, split_sentences
from erarec.audio import SAMPLE_RATE, LogMel, TaggerMel, cut_excerpts, read_excerpts
from erarec.clips import Hearing
from erarec.encoders import (
    MAX_TEXT_TOKENS,
    TEXT_WIDTH,
    WIDTH,
    BiographyReader,
    CnnTower,
    TaggerTower,
    TextEncoder,
    mask_sentences,
    mel_frames,
)
from erarec.tagger import (
    MUSICNN_FEATURES,
    TAGGER_FEATURES,
    TAGS,
    VGG_FEATURES,
    Musicnn,
    Tagger,
    tagger_frames,
)
from erarec.tools.import_tagger import musicnn_state, read_checkpoint, vgg_state

PENULTIMATE, LOG_TAGS, POOLS = slice(0, 200), slice(200, 250), slice(250, MUSICNN_FEATURES)
VGG, VGG_TAGS = slice(MUSICNN_FEATURES, TAGGER_FEATURES), slice(TAGGER_FEATURES - 50, TAGGER_FEATURES)

# fmt: off
MTT_TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano",
    "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals",
    "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft",
    "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal",
    "beats", "harp", "cello", "no voice", "weird", "country", "metal", "female voice", "choral",
)
# fmt: on


# The tagger


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load()


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    with np.load(REFERENCE) as file:
        return file["features"]


def test_the_reference_is_what_numpy_gives(stored):
    np.testing.assert_allclose(reference(), stored, atol=1e-3, rtol=1e-4)


def test_the_tagger_equals_the_reference(tagger, stored):
    mel = TaggerMel()(torch.from_numpy(sounds()))[:, :187]
    heard = tagger(mel, torch.tensor(FRAMES)).numpy()
    assert heard.shape == (2, TAGGER_FEATURES)
    assert (MUSICNN_FEATURES, VGG_FEATURES) == (1756, 2354)
    np.testing.assert_allclose(heard[:, PENULTIMATE], stored[:, PENULTIMATE], atol=1e-3)
    np.testing.assert_allclose(heard[:, LOG_TAGS], stored[:, LOG_TAGS], atol=1e-3)
    np.testing.assert_allclose(heard[:, POOLS], stored[:, POOLS], atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(heard[:, VGG], stored[:, VGG], atol=2e-3, rtol=1e-3)
    assert not np.allclose(stored[0, PENULTIMATE], stored[1, PENULTIMATE], atol=0.1)
    assert not np.allclose(stored[0, VGG], stored[1, VGG], atol=0.1)


def test_moved_weights_are_used(tagger):
    """Block matrices are made of the weights once; other weights need other blocks."""
    mel = torch.rand(1, 187, 96)
    fresh = Tagger()
    before = fresh(mel)
    fresh.load_state_dict(tagger.state_dict())
    assert not torch.equal(fresh.float()(mel), before)
    torch.testing.assert_close(fresh(mel), tagger(mel))


def test_there_are_fifty_tags_and_each_has_its_probability(tagger):
    assert len(TAGS) == len(set(TAGS)) == 50
    assert (TAGS[0], TAGS[19], TAGS[33], TAGS[49]) == ("rock", "80s", "Hip-Hop", "happy")
    heard = tagger(torch.rand(3, 187, 96))
    assert (heard[:, LOG_TAGS] < 0).all()
    assert (heard[:, VGG_TAGS] < 0).all()


def test_excerpts_do_not_hear_each_other(tagger):
    mel = torch.rand(3, 187, 96, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([187, 100, 64])
    alone = torch.cat([tagger(mel[n : n + 1], frames[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(tagger(mel, frames), alone, atol=1e-3, rtol=1e-4)


def test_what_lies_in_the_padding_does_not_change_a_masked_excerpt(tagger):
    """MSD_musicnn's convolutions look 64 + 9 frames ahead, MSD_vgg's less; the rest cannot matter."""
    mel = torch.rand(1, 187, 96, generator=torch.Generator().manual_seed(0))
    other = mel.clone()
    other[:, 100 + 74 :] = 5.0
    masked = torch.tensor([100])
    torch.testing.assert_close(tagger(other, masked), tagger(mel, masked))
    assert not torch.allclose(tagger(other), tagger(mel), atol=0.1)


def test_a_padded_excerpt_is_heard_almost_as_if_it_went_on():
    """Masked, 1.5 s of steady sound resemble 3 s of it more than they do with the silence heard."""
    sound = cut_excerpts(np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)).sound
    short = cut_excerpts(sound[0, : SAMPLE_RATE * 3 // 2])
    hearing = Hearing()
    whole = hearing.tagger(sound, np.array([3.0]))[:, POOLS]
    masked = hearing.tagger(short.sound, short.seconds)[:, POOLS]
    heard = hearing.tagger(short.sound, np.array([3.0]))[:, POOLS]
    assert np.abs(masked - whole).mean() < 0.7 * np.abs(heard - whole).mean()


def test_frames_follow_from_seconds():
    seconds = np.array([0.0, 1.0, 1.5, 3.0, 9.0])
    assert tagger_frames(seconds).tolist() == [1, 63, 94, 187, 187]
    assert mel_frames(seconds).tolist() == [1, 44, 65, 130, 130]


def test_the_taggers_weights_stay_as_they_are(tagger):
    assert not any(parameter.requires_grad for parameter in tagger.parameters())
    assert not tagger.training


@needs_data
def test_an_electronic_piece_sounds_electronic():
    excerpts = read_excerpts(DATA / "tagger_check.mp3")
    heard = Hearing().tagger(excerpts.sound, excerpts.seconds)
    strength, by_vgg = (np.exp(heard[:, tags]).mean(axis=0) for tags in (LOG_TAGS, VGG_TAGS))
    strongest = [TAGS[tag] for tag in strength.argsort()[::-1][:6]]
    assert strongest[0] == TAGS[by_vgg.argmax()] == "electronic"
    assert {"ambient", "instrumental", "electronica"} <= set(strongest)


@needs_data
@pytest.mark.skipif("ERAREC_MUSICNN_WHEEL" not in os.environ, reason="$ERAREC_MUSICNN_WHEEL is not set")
def test_the_sister_network_says_what_its_makers_print():
    """The wheel's other network, for other tags, read by the same script: ten tags in the same order."""
    wheel = Path(os.environ["ERAREC_MUSICNN_WHEEL"])
    tagger = Musicnn()
    tagger.load_state_dict(musicnn_state(read_checkpoint(wheel, "MTT_musicnn")))
    import librosa

    sound, _ = librosa.load(DATA / "tagger_check.mp3", sr=16000, mono=True)
    mel = TaggerMel()(torch.from_numpy(sound))
    patches = mel[: len(mel) // 187 * 187].view(-1, 187, 96)
    strength = tagger(patches)[:, LOG_TAGS].exp().mean(0)
    assert [MTT_TAGS[tag] for tag in strength.topk(10).indices] == [
        "techno", "electronic", "synth", "fast", "beat", "drums", "no vocals", "no vocal", "dance", "ambient"
    ]  # fmt: skip


@pytest.mark.skipif("ERAREC_MUSICNN_WHEEL" not in os.environ, reason="$ERAREC_MUSICNN_WHEEL is not set")
def test_the_shipped_weights_are_the_wheels(tagger):
    wheel = Path(os.environ["ERAREC_MUSICNN_WHEEL"])
    for network, state in [
        (tagger.musicnn, musicnn_state(read_checkpoint(wheel, "MSD_musicnn"))),
        (tagger.vgg, vgg_state(read_checkpoint(wheel, "MSD_vgg"))),
    ]:
        for name, tensor in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(tensor, state[name].half().float(), rtol=0, atol=0)


def test_an_outlier_does_not_run_away_with_the_tagger_tower():
    tower = TaggerTower().eval()
    features = torch.zeros(1, TAGGER_FEATURES)
    features[0, 3] = 1e6
    capped = torch.zeros(1, TAGGER_FEATURES)
    capped[0, 3] = 8
    torch.testing.assert_close(tower(features), tower(capped))


# The CNN


def settled_cnn() -> CnnTower:
    """A tower with running statistics that are not the fresh ones."""
    torch.manual_seed(0)
    tower = CnnTower()
    mel = LogMel()(torch.from_numpy(np.stack([melody(3, SAMPLE_RATE, seed) for seed in range(4)])))
    with torch.no_grad():
        tower.mean.copy_(mel.mean((0, 2)))
        tower.deviation.copy_(mel.std((0, 2)))
        for _ in range(20):
            tower(mel, torch.full((4,), 130))
    return tower.eval()


def test_the_cnn_has_at_most_two_million_parameters():
    assert sum(parameter.numel() for parameter in CnnTower().parameters()) <= 2_000_000


def test_the_cnn_averages_only_what_was_heard():
    tower = settled_cnn()
    mel = LogMel()(torch.from_numpy(cut_excerpts(melody(1.4, SAMPLE_RATE)).sound))
    frames = torch.from_numpy(mel_frames(np.array([1.4])))  # 61 of 130, two steps of five
    with torch.inference_mode():
        steps = tower.stages(tower.stem(((mel - tower.mean[:, None]) / tower.deviation[:, None])[:, None]))
        assert steps.shape == (1, 192, 7, 5)
        torch.testing.assert_close(tower(mel, frames), tower.token(steps[..., :2].mean(-1).flatten(1)))
        assert not torch.allclose(tower(mel, frames), tower(mel, torch.tensor([130])), atol=1e-3)


def test_cnn_excerpts_do_not_hear_each_other():
    tower = settled_cnn()
    mel, frames = torch.randn(3, 224, 130), torch.tensor([130, 44, 90])
    with torch.inference_mode():
        alone = torch.cat([tower(mel[n : n + 1], frames[n : n + 1]) for n in range(3)])
        assert alone.shape == (3, WIDTH)
        torch.testing.assert_close(tower(mel, frames), alone, atol=1e-5, rtol=1e-4)


# The text


@pytest.fixture(scope="module")
def reader() -> BiographyReader:
    return BiographyReader()


def test_years_and_decades_are_masked_and_located():
    text = "ABBA formed in 1972. They ruled the seventies."
    first, second = mask_sentences(text, "ABBA")
    assert first.text == "the artist formed in year."
    assert second.text.startswith("They ruled the decade")
    word = first.text.index("year")
    years, spans = first.locate(np.array([[0, 3], [4, 10], [11, 17], [word, word + 4]]))
    assert years.tolist() == [[-1, -1], [-1, -1], [-1, -1], [1972, 1972]]
    assert [text[start:end] for start, end in spans] == ["ABBA", "ABBA", "formed", "1972"]
    word = second.text.index("decade")
    years, spans = second.locate(np.array([[word, word + 6]]))
    assert years.tolist() == [[1970, 1979]]
    assert text[slice(*spans[0])] == "seventies"


def test_an_artist_may_be_called_like_a_year():
    (sentence,) = mask_sentences("The 1975 formed in 2002.", "The 1975")
    assert sentence.text == "the artist formed in year."
    assert [piece.years for piece in sentence.pieces if piece.years[0] >= 0] == [(2002, 2002)]


def test_an_artists_name_is_masked_as_a_whole_word_only():
    (sentence,) = mask_sentences("A is an artist with About a dozen known releases.", "A")
    assert sentence.text == "the artist is an artist with About a dozen known releases."


def test_a_sentence_that_comes_twice_is_found_twice():
    text = "He sang\nwell in 1950.  Then he left. He sang well in 1950."
    first, _, third = mask_sentences(text)
    assert first.pieces[0].start == 0
    assert text[third.pieces[0].start :] == "He sang well in 1950."


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["1977", "the '80s", "The Who", ". ", "\n", " ", "sang", "Dr. ", "é", "!", "x"])
    ),
    st.sampled_from([None, "The Who", "1977", "x"]),
)
def test_every_token_stands_for_its_own_characters(parts, name):
    text = "".join(parts)
    end = 0
    for sentence in mask_sentences(text, name):
        offsets = np.array([[n, n + 1] for n in range(len(sentence.text))])
        _, spans = sentence.locate(offsets)
        for (start, stop), character, piece in zip(
            spans, sentence.text, np.searchsorted(sentence.ends, offsets[:, 0], side="right"), strict=True
        ):
            assert 0 <= start < stop <= len(text)
            assert start >= end or sentence.pieces[piece].replaced
            if not sentence.pieces[piece].replaced:
                assert text[start:stop] == character
            end = start
    assert len(mask_sentences(text, name)) == len(split_sentences(text))


def test_tokens_know_their_words_and_years(reader):
    text = "Nirvana, a group from the United States, formed in 1987."
    tokens = reader.read(text, "Nirvana")
    assert tokens.embeddings.shape == (len(tokens.spans), TEXT_WIDTH)
    assert len(tokens.years) == len(tokens.spans)
    dated = tokens.years[:, 0] >= 0
    assert [text[start:end] for start, end in tokens.spans[dated]] == ["1987"]
    assert tokens.years[dated].tolist() == [[1987, 1987]]
    assert text[slice(*tokens.spans[-1])] == "."


def test_who_and_when_do_not_change_the_words(reader):
    one = reader.read("Nirvana formed in 1987.", "Nirvana").embeddings
    other = reader.read("ABBA formed in 1972.", "ABBA").embeddings
    assert np.array_equal(one, other)


def test_reading_again_costs_no_model_call(monkeypatch):
    library = ArtistLibrary.load()
    artist = library.find("The Beatles").artist
    text = compose_biography(artist)
    assert text
    reader = BiographyReader()
    first = reader.read(text, artist.name)
    monkeypatch.setattr(reader, "model", lambda *_, **__: pytest.fail("the model was asked again"))
    again = reader.read(text, artist.name)
    assert np.array_equal(first.embeddings, again.embeddings)
    assert np.array_equal(first.years, again.years)


def test_what_is_kept_is_bounded():
    reader = BiographyReader(kept_sentences=3)
    texts = [f"He was the {word} of them all." for word in ("first", "second", "third", "fourth", "fifth")]
    tokens = [reader.read(text).embeddings for text in texts]
    assert len(reader.kept) == 3
    np.testing.assert_allclose(reader.read(texts[0]).embeddings, tokens[0], atol=1e-2)
    assert len(reader.read(" ".join(texts)).embeddings) == sum(map(len, tokens))


def test_threads_may_share_a_reader(monkeypatch):
    """While one asks the model, another must not throw away what the first counts on."""
    reader = BiographyReader(kept_sentences=2)
    texts = [
        f"All of them sang well. Singer {word} was the best." for word in ("one", "two", "three", "four")
    ]
    expected = [reader.read(text).embeddings for text in texts]
    model = reader.model

    def slow(**inputs):
        time.sleep(0.005)
        return model(**inputs)

    monkeypatch.setattr(reader, "model", slow)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                for text, tokens in zip(texts, expected, strict=True):
                    np.testing.assert_allclose(reader.read(text).embeddings, tokens, atol=1e-2)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("text", ["He sang. " * 300, "la " * 1000], ids=["sentences", "one sentence"])
def test_at_most_192_tokens_are_read(reader, text):
    tokens = reader.read(text)
    assert 180 <= len(tokens.embeddings) <= MAX_TEXT_TOKENS
    assert len(tokens.years) == len(tokens.spans) == len(tokens.embeddings)


@pytest.mark.parametrize("text", ["", "  \n ", "\u200b", "\u0000"])
def test_nothing_to_read_gives_no_tokens(reader, text):
    tokens = reader.read(text, "ABBA")
    assert tokens.embeddings.shape == (0, TEXT_WIDTH)
    assert tokens.years.shape == tokens.spans.shape == (0, 2)


@pytest.fixture(scope="module")
def text_encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder().eval()


def test_another_year_is_another_token_and_the_same_year_the_same(text_encoder):
    words = torch.randn(1, 1, TEXT_WIDTH).expand(1, 4, -1)
    years = torch.tensor([[[1977, 1977], [1977, 1977], [1978, 1978], [-1, -1]]])
    same, again, other, none = text_encoder(words, years)[0]
    torch.testing.assert_close(same, again)
    assert not torch.allclose(same, other, atol=1e-4)
    assert not torch.allclose(same, none, atol=1e-4)


def test_near_years_are_nearer_than_far_ones(text_encoder):
    words = torch.zeros(1, 3, TEXT_WIDTH)
    years = torch.tensor([[[1977, 1977], [1979, 1979], [2005, 2005]]])
    token, near, far = text_encoder(words, years)[0]
    assert (token - near).norm() < (token - far).norm()


def test_a_decade_is_not_its_middle_year(text_encoder):
    words = torch.zeros(1, 2, TEXT_WIDTH)
    decade, year = text_encoder(words, torch.tensor([[[1970, 1979], [1974, 1974]]]))[0]
    assert not torch.allclose(decade, year, atol=1e-3)


@pytest.mark.parametrize("year", [1890, 2029])
def test_the_first_and_the_last_year_have_tokens(text_encoder, year):
    tokens = text_encoder(torch.zeros(1, 1, TEXT_WIDTH), torch.tensor([[[year, year]]]))
    assert tokens.isfinite().all()


def test_other_weights_than_those_trained_with_are_refused(monkeypatch):
    assert (encoders.text_model_path() / "model.safetensors").is_file()
    monkeypatch.setattr(encoders, "TEXT_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="not the text model"):
        encoders.text_model_path()
