"""The three losses: of the year (L_MLE), of eras (L_EC), and of artist and sound (L_MMC).

From "Music Era Recognition Using Supervised Contrastive Learning and Artist Information",
arXiv 2407.05368; the total is L = L_MLE + alpha L_EC + beta L_MMC. Every loss computes in float32,
under autocast too: exp(z_i.z_j / tau) spans e^20 at tau = 0.1, more than half precision resolves.

Similarities stay logarithms throughout, so any temperature is safe. What a sum leaves out is set to the
lowest finite number rather than minus infinity: a row in which all is left out then has the gradient 0,
with no special case.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LOWEST = torch.finfo(torch.float32).min


def _similarity(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """log s_ik = rows_i . columns_k / tau in float32. Shape: ([N, D], [N, D]) -> [N, N]."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T / temperature


def _log_sum(similarity: Tensor, members: Tensor) -> Tensor:
    """log of the sum over k in ``members`` of s_ik. Shape: ([N, N], [N, N] bool) -> [N, 1]."""
    return similarity.masked_fill(~members, LOWEST).logsumexp(1, keepdim=True)


def _mean_over(values: Tensor, members: Tensor) -> Tensor:
    """Mean of the members of the last axis; 0, with gradient, where there is none."""
    return values.where(members, 0).sum(-1) / members.sum(-1).clamp(min=1)


class MaximumLikelihoodLoss(nn.Module):
    """L_MLE: mean cross-entropy of the predicted years against the label's distribution.

    L_MLE = - 1/N sum_i sum_y q_i(y) log softmax(logits_i)(y), q_i from ``years.target_distribution``.

    The paper's classes are ranges of years with one right answer; here they are single years and the
    right answer is spread, so that one year off costs less than ten.

    Batch: any. Log-probabilities do in place of logits, for softmax leaves them as they are.

    Shape: logits [N, 140], target [N, 140] with rows summing to 1 -> scalar float32.

    Example: even odds between two years cost log 2, whatever the target.

        >>> logits, target = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])
        >>> round(MaximumLikelihoodLoss()(logits, target).item(), 4)
        0.6931
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return functional.cross_entropy(logits.float(), target.float())


class EraContrastiveLoss(nn.Module):
    """L_EC: songs of one era attract, songs of different eras repel.

    With s_ij = exp(z_i . z_j / tau), P(i) the other songs of i's era and N(i) the songs of other eras:

    L_EC = mean over i with P(i) not empty of the mean over j in P(i) of -log(s_ij / D_ij)

    ==============  =================================  ============================================
    denominator     D_ij                               what it is
    ==============  =================================  ============================================
    ``pair``        s_ij + sum over k in N(i) of s_ik  the default: bounded below by 0, and positives
                                                       do not compete with one another
    ``negatives``   sum over k in N(i) of s_ik         the paper's own (it sums where this averages);
                                                       can fall below 0; skips i when N(i) is empty
    ``all``         sum over all k != i of s_ik        SupCon (Khosla et al., arXiv 2004.11362, L_out)
    ==============  =================================  ============================================

    Batch: at least two songs of one era and one of another, better several of each: a song whose era
    stands alone in the batch is only a negative. 0 (with gradient) when no song has a positive.

    Shape: embeddings [N, D] of length 1, eras [N] int (``years.era``) -> scalar float32.

    Example: two equal songs of one era at a right angle to one of another: log(1 + e^(0 - 1)).

        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> eras = torch.tensor([17, 17, 18])
        >>> round(EraContrastiveLoss(temperature=1.0)(z, eras).item(), 4)
        0.3133
        >>> round(EraContrastiveLoss(temperature=1.0, denominator="negatives")(z, eras).item(), 4)
        -1.0
    """

    def __init__(
        self, temperature: float = 0.1, denominator: Literal["pair", "negatives", "all"] = "pair"
    ) -> None:
        super().__init__()
        if denominator not in ("pair", "negatives", "all"):
            raise ValueError(f"denominator is pair, negatives or all, not {denominator!r}.")
        self.temperature = temperature
        self.denominator = denominator

    def forward(self, embeddings: Tensor, eras: Tensor) -> Tensor:
        similarity = _similarity(embeddings, embeddings, self.temperature)
        same_era = eras[:, None] == eras[None, :]
        itself = torch.eye(len(eras), dtype=torch.bool, device=eras.device)
        positive, negative = same_era & ~itself, ~same_era

        anchors = positive.any(1)
        if self.denominator == "pair":
            # -log(s / (s + n)) = softplus(log n - log s)
            losses = functional.softplus(_log_sum(similarity, negative) - similarity)
        elif self.denominator == "negatives":
            losses = _log_sum(similarity, negative) - similarity
            anchors = anchors & negative.any(1)
        else:
            losses = _log_sum(similarity, ~itself) - similarity
        return _mean_over(_mean_over(losses, positive), anchors)


class MultimodalContrastiveLoss(nn.Module):
    """L_MMC: an artist's text finds the sound of its own pair among other artists of the same era.

    With C(i) = {i} and the songs of i's era by other artists:

    L_MMC = mean over i of -log( exp(t_i . s_i / tau) / sum over k in C(i) of exp(t_i . s_k / tau) )

    over those i for which C(i) holds more than i. Negatives of the same era only, so that era alone
    cannot solve it; another song of the same artist is no negative, for the text fits it as well.
    ``symmetric`` averages with the other direction, sound_i among the texts of C(i).

    Batch: eras with at least two artists each. An era with one artist adds nothing, whatever the number
    of its songs; 0 (with gradient) when no era has two. Draw a few eras and many artists of each.

    Shape: text [N, D] and sound [N, D] of length 1, eras [N] int, artists [N] int, mask [N] bool (True
    for pairs that have both; the others, finite all the same, are neither anchors nor negatives) ->
    scalar float32.

    Example: two artists of one era, each text equal to its sound: log(1 + e^(0 - 1)).

        >>> both = torch.eye(2)
        >>> loss = MultimodalContrastiveLoss(temperature=1.0)
        >>> round(loss(both, both, torch.tensor([17, 17]), torch.tensor([0, 1])).item(), 4)
        0.3133
    """

    def __init__(self, temperature: float = 0.1, symmetric: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(
        self, text: Tensor, sound: Tensor, eras: Tensor, artists: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        similarity = _similarity(text, sound, self.temperature)
        negative = (eras[:, None] == eras[None, :]) & (artists[:, None] != artists[None, :])
        if mask is not None:
            negative = negative & mask[:, None] & mask[None, :]
        anchors = negative.any(1)
        candidates = negative | torch.eye(len(eras), dtype=torch.bool, device=eras.device)

        own = similarity.diagonal()
        losses = _log_sum(similarity, candidates).squeeze(1) - own
        if self.symmetric:
            losses = (losses + _log_sum(similarity.T, candidates).squeeze(1) - own) / 2
        return _mean_over(losses, anchors)
