"""The losses by hand on tiny batches, and where batches are thin."""

import doctest
import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor
from torch.nn import functional

from erarec import losses
from erarec.losses import EraContrastiveLoss, MaximumLikelihoodLoss, MultimodalContrastiveLoss


def unit(count: int, width: int = 16, seed: int = 0) -> Tensor:
    """Random embeddings of length 1 that ask for a gradient. Shape: [count, width]."""
    points = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(points, dim=1).requires_grad_()


def assert_learns_from(loss: Tensor, *inputs: Tensor) -> None:
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def assert_zero_with_gradient(loss: Tensor, *inputs: Tensor) -> None:
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, inputs):
        assert (gradient == 0).all()  # fails on NaN


# At 0, 60 and 90 degrees three songs of one era, at 180 one of another: cosines to reckon with by hand.
ANGLES = torch.deg2rad(torch.tensor([0.0, 60.0, 90.0, 180.0]))
PLANE = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
ERAS = torch.tensor([7, 7, 7, 3])

SONGS = 24
SONG_ERAS = torch.arange(SONGS) % 4
SONG_ARTISTS = torch.arange(SONGS) // 8


def test_the_docstring_examples_hold():
    assert doctest.testmod(losses).attempted > 0
    assert doctest.testmod(losses).failed == 0


class TestMaximumLikelihood:
    def test_by_hand(self):
        logits = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log()
        target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        expected = -(0.5 * math.log(0.2) + 0.5 * math.log(0.5) + math.log(0.8)) / 2
        assert MaximumLikelihoodLoss()(logits, target).item() == pytest.approx(expected, abs=1e-6)

    def test_nothing_is_cheaper_than_the_target_itself(self):
        target = torch.softmax(torch.randn(5, 140, generator=torch.Generator().manual_seed(0)), 1)
        least = MaximumLikelihoodLoss()(target.log(), target)
        assert least.item() == pytest.approx(-(target * target.log()).sum(1).mean().item(), abs=1e-5)
        assert MaximumLikelihoodLoss()(target.log() + 0.1 * torch.eye(5, 140), target) > least

    def test_extreme_logits_stay_finite(self):
        logits = torch.full((1, 140), -1e4).index_fill(1, torch.tensor([3]), 1e4).requires_grad_()
        loss = MaximumLikelihoodLoss()(logits, torch.full((1, 140), 1 / 140))
        assert loss.isfinite()
        assert_learns_from(loss, logits)


class TestEraContrastive:
    # Cosines: 0-1 0.5, 0-2 0, 1-2 sqrt(3)/2; to the other era: 0 -1, 1 -0.5, 2 0. All at temperature 0.5.
    PAIRS = ((0, 0.5, -1.0), (0, 0.0, -1.0), (1, 0.5, -0.5), (1, 3**0.5 / 2, -0.5))
    PAIRS += ((2, 0.0, 0.0), (2, 3**0.5 / 2, 0.0))

    def test_default_by_hand(self):
        terms = [
            -math.log(math.exp(2 * near) / (math.exp(2 * near) + math.exp(2 * far)))
            for _, near, far in self.PAIRS
        ]
        assert EraContrastiveLoss(0.5)(PLANE, ERAS).item() == pytest.approx(sum(terms) / 6, abs=1e-6)

    def test_the_papers_form_by_hand(self):
        terms = [-math.log(math.exp(2 * near) / math.exp(2 * far)) for _, near, far in self.PAIRS]
        loss = EraContrastiveLoss(0.5, denominator="negatives")(PLANE, ERAS)
        assert loss.item() == pytest.approx(sum(terms) / 6, abs=1e-6)

    @pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
    def test_all_is_supcon(self, temperature: float):
        points = torch.randn(SONGS, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        reference = SupConLoss(temperature=temperature)(points, SONG_ERAS)
        loss = EraContrastiveLoss(temperature, denominator="all")(functional.normalize(points), SONG_ERAS)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
        (ours,) = torch.autograd.grad(loss, points)
        (theirs,) = torch.autograd.grad(reference, points)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    def test_an_era_counts_by_its_songs_and_not_by_its_pairs(self):
        """Mean over anchors of the mean over positives: three songs weigh 3, though they make 6 pairs."""
        embeddings, eras = unit(5), torch.tensor([0, 0, 0, 1, 1])
        similarity = (embeddings @ embeddings.T / 0.1).exp()
        anchors = []
        for i in range(5):
            negatives = sum(similarity[i, k] for k in range(5) if eras[k] != eras[i])
            terms = [
                -(similarity[i, j] / (similarity[i, j] + negatives)).log()
                for j in range(5)
                if j != i and eras[j] == eras[i]
            ]
            anchors.append(sum(terms) / len(terms))
        loss = EraContrastiveLoss()(embeddings, eras)
        assert loss.item() == pytest.approx((sum(anchors) / 5).item(), rel=1e-5)

    @pytest.mark.parametrize("denominator", ["pair", "negatives", "all"])
    def test_learns_from_an_ordinary_batch(self, denominator):
        embeddings = unit(SONGS)
        assert_learns_from(EraContrastiveLoss(denominator=denominator)(embeddings, SONG_ERAS), embeddings)

    @pytest.mark.parametrize("denominator", ["pair", "negatives", "all"])
    def test_is_zero_when_no_song_has_a_positive(self, denominator):
        embeddings = unit(4)
        loss = EraContrastiveLoss(denominator=denominator)(embeddings, torch.arange(4))
        assert_zero_with_gradient(loss, embeddings)

    @pytest.mark.parametrize("denominator", ["pair", "negatives"])
    def test_is_zero_when_all_are_of_one_era(self, denominator):
        embeddings = unit(4)
        loss = EraContrastiveLoss(denominator=denominator)(embeddings, torch.zeros(4, dtype=torch.long))
        assert_zero_with_gradient(loss, embeddings)

    @pytest.mark.parametrize("denominator", ["pair", "negatives", "all"])
    def test_a_batch_of_one_is_zero(self, denominator):
        embeddings = unit(1)
        loss = EraContrastiveLoss(denominator=denominator)(embeddings, torch.zeros(1, dtype=torch.long))
        assert_zero_with_gradient(loss, embeddings)

    def test_a_song_alone_in_its_era_is_a_negative_but_no_anchor(self):
        embeddings = unit(4)
        loss = EraContrastiveLoss()(embeddings, torch.tensor([0, 0, 1, 2]))
        by_pair = [
            functional.softplus(
                torch.logsumexp(embeddings[i] @ embeddings[2:].T / 0.1, 0)
                - embeddings[0] @ embeddings[1] / 0.1
            )
            for i in (0, 1)
        ]
        assert loss.item() == pytest.approx((sum(by_pair) / 2).item(), rel=1e-5)

    @pytest.mark.parametrize("denominator", ["pair", "negatives", "all"])
    def test_order_and_names_of_eras_do_not_matter(self, denominator):
        loss = EraContrastiveLoss(denominator=denominator)
        embeddings, order = unit(SONGS), torch.randperm(SONGS, generator=torch.Generator().manual_seed(1))
        shuffled = loss(embeddings[order], 20 - SONG_ERAS[order])
        assert shuffled.item() == pytest.approx(loss(embeddings, SONG_ERAS).item(), rel=1e-5)

    def test_gathering_an_era_lowers_it(self):
        apart = EraContrastiveLoss()(unit(SONGS), SONG_ERAS)
        together = EraContrastiveLoss()(torch.eye(4)[SONG_ERAS], SONG_ERAS)
        assert together < 0.01 < apart

    def test_a_very_low_temperature_stays_finite(self):
        embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
        loss = EraContrastiveLoss(temperature=1e-3)(embeddings, torch.tensor([0, 0, 1]))
        assert loss.item() == pytest.approx((2000 + math.log(2)) / 2, rel=1e-6)
        assert_learns_from(loss, embeddings)

    def test_an_unknown_denominator_is_refused(self):
        with pytest.raises(ValueError, match="negatives"):
            EraContrastiveLoss(denominator="positives")  # type: ignore[arg-type]


class TestMultimodalContrastive:
    TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    SOUND = torch.tensor([[0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])

    def test_by_hand(self):
        """Three artists, two of one era: each text chooses between two sounds, the third pair is unused."""
        loss = MultimodalContrastiveLoss(0.5)(
            self.TEXT, self.SOUND, torch.tensor([4, 4, 5]), torch.tensor([0, 1, 2])
        )
        first = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(0.0)))
        second = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(1.2)))
        assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)

    def test_symmetric_averages_both_directions(self):
        eras, artists = torch.zeros(3, dtype=torch.long), torch.arange(3)
        one_way = MultimodalContrastiveLoss(0.5)
        there = one_way(self.TEXT, self.SOUND, eras, artists)
        back = one_way(self.SOUND, self.TEXT, eras, artists)
        both = MultimodalContrastiveLoss(0.5, symmetric=True)(self.TEXT, self.SOUND, eras, artists)
        assert there.item() != pytest.approx(back.item(), abs=1e-3)
        assert both.item() == pytest.approx((there + back).item() / 2, abs=1e-6)

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_eras_of_one_artist_each_teach_nothing(self, symmetric):
        """The trap: with one artist an era, telling eras apart would do for telling artists apart."""
        text, sound = unit(6, seed=1), unit(6, seed=2)
        eras = torch.tensor([0, 0, 1, 1, 2, 2])
        loss = MultimodalContrastiveLoss(symmetric=symmetric)(text, sound, eras, eras)
        assert_zero_with_gradient(loss, text, sound)

    def test_another_song_of_the_same_artist_is_no_negative(self):
        text, sound = unit(4, seed=1), unit(4, seed=2)
        eras = torch.zeros(4, dtype=torch.long)
        loss = MultimodalContrastiveLoss()(text, sound, eras, torch.tensor([0, 0, 1, 2]))
        similarity = text @ sound.T / 0.1
        candidates = [[0, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
        terms = [similarity[i, chosen].logsumexp(0) - similarity[i, i] for i, chosen in enumerate(candidates)]
        assert loss.item() == pytest.approx((sum(terms) / 4).item(), rel=1e-5)

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_masked_pairs_might_as_well_not_be_there(self, symmetric):
        text, sound = unit(SONGS, seed=1), unit(SONGS, seed=2)
        mask = torch.arange(SONGS) % 5 != 0
        loss = MultimodalContrastiveLoss(symmetric=symmetric)
        masked = loss(text, sound, SONG_ERAS, SONG_ARTISTS, mask)
        without = loss(text[mask], sound[mask], SONG_ERAS[mask], SONG_ARTISTS[mask])
        assert masked.item() == pytest.approx(without.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(masked, text)
        assert (gradient[~mask] == 0).all()

    def test_nothing_but_masked_pairs_is_zero(self):
        text, sound = unit(4, seed=1), unit(4, seed=2)
        eras = torch.zeros(4, dtype=torch.long)
        loss = MultimodalContrastiveLoss()(
            text, sound, eras, torch.arange(4), torch.zeros(4, dtype=torch.bool)
        )
        assert_zero_with_gradient(loss, text, sound)

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_both_encoders_learn_from_an_ordinary_batch(self, symmetric):
        text, sound = unit(SONGS, seed=1), unit(SONGS, seed=2)
        loss = MultimodalContrastiveLoss(symmetric=symmetric)(text, sound, SONG_ERAS, SONG_ARTISTS)
        assert_learns_from(loss, text, sound)

    def test_order_does_not_matter(self):
        text, sound = unit(SONGS, seed=1), unit(SONGS, seed=2)
        order = torch.randperm(SONGS, generator=torch.Generator().manual_seed(1))
        loss = MultimodalContrastiveLoss()
        shuffled = loss(text[order], sound[order], SONG_ERAS[order], SONG_ARTISTS[order])
        assert shuffled.item() == pytest.approx(loss(text, sound, SONG_ERAS, SONG_ARTISTS).item(), rel=1e-5)

    def test_aligned_pairs_cost_less_than_swapped_ones(self):
        eras, artists, aligned = torch.zeros(4, dtype=torch.long), torch.arange(4), torch.eye(4)
        loss = MultimodalContrastiveLoss()
        assert loss(aligned, aligned, eras, artists) < 0.01
        assert loss(aligned, aligned.roll(1, 0), eras, artists) > 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
class TestHalfPrecision:
    """Autocast changes nothing, and half precision in means float32 arithmetic on what came in."""

    CASES = (
        (MaximumLikelihoodLoss(), lambda x: (x, torch.softmax(unit(SONGS, seed=3).detach() * 9, 1))),
        (EraContrastiveLoss(), lambda x: (x, SONG_ERAS)),
        (MultimodalContrastiveLoss(), lambda x: (x, x.roll(1, 1), SONG_ERAS, SONG_ARTISTS)),
    )

    @pytest.mark.parametrize(("loss", "inputs"), CASES)
    def test_autocast_changes_nothing(self, dtype, loss, inputs):
        x = unit(SONGS)
        outside = loss(*inputs(x))
        with torch.autocast("cpu", dtype=dtype):
            inside = loss(*inputs(x))
        assert inside.dtype == torch.float32
        assert inside.item() == outside.item()

    @pytest.mark.parametrize(("loss", "inputs"), CASES)
    def test_half_inputs_are_widened_before_anything_else(self, dtype, loss, inputs):
        half = unit(SONGS).detach().to(dtype).requires_grad_()
        assert loss(*inputs(half)).item() == loss(*inputs(half.float())).item()
        assert_learns_from(loss(*inputs(half)), half)
