"""Fusion: whom the class token attends to, and an answer that begins as the product of two."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from erarec.encoders import TEXT_WIDTH, WIDTH
from erarec.fusion import LAYERS, Fusion, attention_rollout
from erarec.models import AudioArtMMC, Inputs, no_words, sureness
from erarec.tagger import TAGGER_FEATURES
from erarec.years import target_distribution


def tensor(rows: list) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def batch(n: int = 3, excerpts: int = 4, words: int = 6, seed: int = 0) -> Inputs:
    """Random sound and text, all of it there."""
    random = torch.Generator().manual_seed(seed)
    year = torch.randint(1950, 2000, (n, words, 1), generator=random)
    return Inputs(
        present=torch.ones(n, excerpts, dtype=torch.bool),
        tagger=torch.randn(n, excerpts, TAGGER_FEATURES, generator=random),
        words=torch.randn(n, words, TEXT_WIDTH, generator=random),
        word_years=year.expand(-1, -1, 2),
        words_present=torch.ones(n, words, dtype=torch.bool),
    )


def artmmc(trained: bool = False) -> AudioArtMMC:
    """A model with fresh weights, its fusion at zero unless ``trained``."""
    torch.manual_seed(0)
    model = AudioArtMMC(("tagger",)).eval()
    if trained:
        torch.nn.init.normal_(model.fused_years.weight)
    return model


# Rollout


def test_rollout_of_one_layer_by_hand():
    # The class token keeps half of itself: 0.5 + 0.1, 0.15 and 0.25 of the others, 3 to 5 when scaled.
    attention = tensor([[[0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 1]]])
    torch.testing.assert_close(attention_rollout([attention]), tensor([[0.375, 0.625]]))


def test_rollout_of_two_layers_by_hand():
    first = tensor([[[0.2, 0.3, 0.5], [0, 0, 1], [0, 0, 1]]])  # the second token listens to the third
    second = tensor([[[0, 1, 0], [0, 1, 0], [0, 0, 1]]])  # the class token listens to the second
    # (second + 1) / 2 has the class row [1/2, 1/2, 0], (first + 1) / 2 the rows [0.6, 0.15, 0.25] and
    # [0, 1/2, 1/2]: the product's row is [0.3, 0.075 + 0.25, 0.125 + 0.25].
    expected = tensor([[0.325, 0.375]]) / 0.7
    torch.testing.assert_close(attention_rollout([first, second]), expected)


def test_the_layers_order_matters():
    first, second = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert not torch.allclose(attention_rollout([first, second]), attention_rollout([second, first]))


def test_shares_sum_to_one():
    attentions = list(torch.randn(LAYERS, 5, 9, 9, generator=torch.Generator().manual_seed(0)).softmax(-1))
    shares = attention_rollout(attentions)
    assert shares.shape == (5, 8)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(5))


def test_a_class_token_alone_attends_to_nothing():
    assert attention_rollout([torch.eye(3)[None]] * 2).tolist() == [[0, 0]]


# The layers


def fused(sound_present: list[bool], text_present: list[bool]) -> torch.Tensor:
    torch.manual_seed(0)
    fusion = Fusion().eval()
    sound, text = torch.randn(1, len(sound_present), WIDTH), torch.randn(1, len(text_present), WIDTH)
    _, attentions = fusion(sound, torch.tensor([sound_present]), text, torch.tensor([text_present]))
    assert len(attentions) == LAYERS
    return attention_rollout(attentions)[0]


def test_masked_tokens_get_no_share():
    shares = fused([True, False, True], [False, True])
    assert (shares == 0).tolist() == [False, True, False, True, False]
    assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("missing", ["sound", "artist"])
def test_a_missing_modality_gets_no_share(missing):
    shares = fused([missing != "sound"] * 3, [missing != "artist"] * 2)
    sound, artist = shares[:3].sum().item(), shares[3:].sum().item()
    assert (sound, artist) == pytest.approx((0, 1) if missing == "sound" else (1, 0))


def test_what_is_masked_does_not_matter():
    torch.manual_seed(0)
    fusion = Fusion().eval()
    sound, text = torch.randn(2, 3, WIDTH), torch.randn(2, 4, WIDTH)
    heard = torch.tensor([[True, True, False]] * 2)
    read = torch.tensor([[True, False, True, True]] * 2)
    other = sound.clone(), text.clone()
    other[0][~heard], other[1][~read] = 7.0, -7.0
    torch.testing.assert_close(
        fusion(*other[:1], heard, other[1], read)[0], fusion(sound, heard, text, read)[0]
    )


def test_sound_and_text_are_told_apart():
    """The same token weighs otherwise as sound than as text."""
    torch.manual_seed(0)
    fusion = Fusion().eval()
    torch.nn.init.normal_(fusion.modality)
    token, there, none = torch.randn(1, 1, WIDTH), torch.ones(1, 1, dtype=bool), torch.zeros(1, 1, dtype=bool)
    as_sound, as_text = fusion(token, there, token, none)[0], fusion(token, none, token, there)[0]
    assert not torch.allclose(as_sound, as_text, atol=1e-3)


# The answer


def test_it_begins_as_the_product_of_both():
    model, inputs = artmmc(), batch()
    with torch.inference_mode():
        outputs = model(inputs)
    sound, artist = outputs.sound_years.exp(), outputs.artist_years.exp()
    product = sound * artist
    torch.testing.assert_close(outputs.years.exp(), product / product.sum(-1, keepdim=True))
    assert not torch.allclose(outputs.years.exp(), sound, atol=1e-4)


def test_weights_and_temperatures_are_for_what_they_were_fitted_on():
    model, inputs = artmmc(), batch()
    model.weighing.bias.data.copy_(tensor([0.5, 1.5]))
    model.temperatures.copy_(tensor([0.8, 0.7]))
    with torch.inference_mode():
        both = model(inputs)
        heard = model(replace(inputs, words_present=torch.zeros_like(inputs.words_present)))
        read = model(replace(inputs, present=torch.zeros_like(inputs.present)))
    product = 0.5 * both.sound_years + 1.5 * both.artist_years
    torch.testing.assert_close(both.years, product.log_softmax(-1))
    torch.testing.assert_close(heard.years, (heard.sound_years / 0.8).log_softmax(-1))
    torch.testing.assert_close(read.years, (read.artist_years / 0.7).log_softmax(-1))


def test_the_weights_go_by_how_sure_each_is_and_of_which_year():
    model = artmmc()
    wide, narrow = (
        torch.from_numpy(target_distribution([1950], [1950], sigma) + 1e-12).log() for sigma in (20.0, 2.0)
    )
    of_wide, of_narrow = sureness(wide, narrow)[0].split(2)
    assert of_wide[0] > of_narrow[0]  # entropy
    assert of_narrow[1] == pytest.approx((1950 - 1990) / 20, abs=0.01)
    model.weighing.weight.data[1, 2] = -0.3  # of the artist, by the artist's entropy
    sure, unsure = (model.product_weights(narrow, artist)[0] for artist in (narrow, wide))
    assert sure[0] == unsure[0] == 1
    assert sure[1] > unsure[1] > 0
    model.weighing.weight.data[1, 2] = -100
    assert model.product_weights(narrow, wide)[0, 1] == 0


def test_the_weights_do_not_shape_the_answers_that_they_weigh():
    model = artmmc()
    model.weighing.weight.data.fill_(0.3)
    years = torch.zeros(2, 140, requires_grad=True)
    model.product_weights(years.log_softmax(-1), years.log_softmax(-1)).sum().backward()
    assert years.grad is None
    assert model.weighing.weight.grad is not None


def test_with_one_modality_it_begins_as_that_ones_answer():
    model, inputs = artmmc(), batch()
    with torch.inference_mode():
        heard = model(replace(inputs, words_present=torch.zeros_like(inputs.words_present)))
        read = model(replace(inputs, present=torch.zeros_like(inputs.present)))
    torch.testing.assert_close(heard.years, heard.sound_years)
    torch.testing.assert_close(read.years, read.artist_years)


def test_an_unknown_artist_leaves_exactly_what_the_sound_says():
    """Whatever stands in the place of words that are not there, and however many they are."""
    model, inputs = artmmc(trained=True), batch()
    nothing = torch.zeros_like(inputs.words_present)
    with torch.inference_mode():
        unknown = model(replace(inputs, words_present=nothing))
        alone = model(replace(inputs, **no_words(len(inputs.present))))
    torch.testing.assert_close(unknown.years, alone.years, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(unknown.embedding, alone.embedding, atol=1e-5, rtol=1e-5)
    excerpts = inputs.present.shape[1]
    torch.testing.assert_close(unknown.attention[:, :excerpts], alone.attention[:, :excerpts])


def test_others_in_the_batch_do_not_matter():
    """A recording with fewer excerpts and words is answered as if it were alone."""
    model, inputs = artmmc(trained=True), batch()
    inputs.present[1, 2:] = False
    inputs.words_present[1, 4:] = False
    alone = Inputs(
        inputs.present[1:2, :2],
        tagger=inputs.tagger[1:2, :2],
        words=inputs.words[1:2, :4],
        word_years=inputs.word_years[1:2, :4],
        words_present=inputs.words_present[1:2, :4],
    )
    with torch.inference_mode():
        together, single = model(inputs), model(alone)
    torch.testing.assert_close(together.years[1:2], single.years, atol=1e-5, rtol=1e-5)
    shares = together.attention[1].numpy()
    np.testing.assert_allclose(shares[[0, 1, 4, 5, 6, 7]], single.attention[0].numpy(), atol=1e-5)
    assert (shares[[2, 3, 8, 9]] == 0).all()
