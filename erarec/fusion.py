"""Self-attention over what was heard and what was read, and how much each weighed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erarec.encoders import WIDTH

LAYERS = 2
HEADS = 4


class FusionLayer(nn.Module):
    """A pre-norm transformer layer that also returns its attention.

    Shape: tokens [N, L, 128], present [N, L] bool -> [N, L, 128] and attention [N, L, L], head-averaged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        n, length, _ = tokens.shape
        mixed = self.query_key_value(self.attention_norm(tokens))
        query, key, value = mixed.view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).float()
        attention = scores.masked_fill(~present[:, None, None, :], -torch.inf).softmax(-1)
        heard = (attention.to(value.dtype) @ value).transpose(1, 2).reshape(n, length, WIDTH)
        tokens = tokens + self.out(heard)
        return tokens + self.feed(self.feed_norm(tokens)), attention.mean(1)


class Fusion(nn.Module):
    """A class token that attends to sound and text.

    Shape: sound [N, S, 128], text [N, T, 128], each with a mask of the tokens that are there [N, S], [N, T]
    bool -> class token [N, 128], attention of each layer [N, 1 + S + T, 1 + S + T].
    """

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.modality = nn.Parameter(torch.randn(2, WIDTH) * 0.02)
        self.sound_norm, self.text_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList([FusionLayer() for _ in range(LAYERS)])
        # The tokens themselves are thinned out in training (clips.TextTable.batch), which costs nothing.
        self.norm, self.dropout = nn.LayerNorm(WIDTH), nn.Dropout(0.3)

    def forward(
        self, sound: Tensor, sound_present: Tensor, text: Tensor, text_present: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        first = self.class_token.expand(len(sound), 1, WIDTH)
        parts = [
            first,
            self.sound_norm(sound) + self.modality[0],
            self.text_norm(text) + self.modality[1],
        ]
        tokens = torch.cat([part.to(sound.dtype) for part in parts], dim=1)
        present = torch.cat([sound_present.new_ones(len(sound), 1), sound_present, text_present], dim=1)
        attentions = []
        for layer in self.layers:
            tokens, attention = layer(tokens, present)
            attentions.append(attention)
        return self.dropout(self.norm(tokens[:, 0])), attentions


def attention_rollout(attentions: list[Tensor]) -> Tensor:
    """How much of the class token comes from each other token, through all layers.

    Attention rollout: each layer's head-averaged attention, half of it replaced by the residual's identity,
    multiplied up; the row of the class token, without itself, scaled to sum to 1.
    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.

    Shape: [N, L, L] for each layer, first to last -> [N, L - 1]. Zeros where there is nothing to attend to.
    """
    length = attentions[0].shape[-1]
    identity = torch.eye(length, device=attentions[0].device)
    flow = identity.expand(attentions[0].shape)
    for attention in attentions:
        flow = 0.5 * (attention.float() + identity) @ flow
    shares = flow[:, 0, 1:]
    return F.normalize(shares, p=1, dim=-1)
