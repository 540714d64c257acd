"""The classifier that every backbone is wired into: its last feature map, a convolution, an average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.models.image_network import ImageNetwork, check_images


class Classifier(ImageNetwork):
    """images -> backbone -> head -> mean over the places -> class logits, in training and evaluation alike.

    The backbone returns a feature map, or several of which the last one counts; those of detectors are the
    same modules under the same names, `backbone.*`. The head may also give (B, C) itself.

    >>> import torch
    >>> from detectors.models.darknet19 import darknet19
    >>> darknet19(num_classes=10, width=0.125).eval()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        loss: CrossEntropyLoss | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str = "rgb",
        grey: bool = False,
    ):
        """loss: CrossEntropyLoss() by default. pixel_mean, pixel_std, channel_order: see ImageNetwork.
        grey: the backbone has one input channel, the mean of red, green and blue.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, channel_order=channel_order)
        self.backbone = backbone
        self.head = head
        self.loss = loss or CrossEntropyLoss()
        self.grey = grey
        self.set_memory_format("channels_last")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float 0..255 -> (B, C) float32 class logits.

        Darknet's cfg follows them with a softmax.
        """
        check_images(images, "a classifier")
        return self.network(self._normalize(images))

    def network(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C) float32"""
        features = self.backbone(x.mean(1, keepdim=True) if self.grey else x)
        logits = self.head(features if isinstance(features, Tensor) else features[-1])
        return logits.mean((2, 3)).float() if logits.ndim == 4 else logits.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, C) logits -> (B, C): a softmax; of a tree Pr(node), whose leaves sum to 1."""
        return self.loss.probabilities(logits)

    def best_classes(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(B, C) logits -> probabilities and labels of the best classes, both (B, count), the best first.

        Of a tree, only leaves are named, as in Darknet's evaluation of classifiers.
        """
        probabilities = self.probabilities(logits)
        if self.loss.tree is not None:
            leaf = torch.as_tensor(self.loss.tree.tree.leaf, device=logits.device)
            probabilities = torch.where(leaf, probabilities, -1)
            count = min(count, int(leaf.sum()))
        best = probabilities.topk(min(count, logits.shape[1]))
        return best.values, best.indices

    def kernel_versions(self) -> str:
        """As Detector's, for the log."""
        return "none, a classifier has no fused operation"

    def check_size(self, size: Sequence[int]) -> None:
        """ValueError for an input of `size` (height, width) that the network cannot take."""
        training = self.training
        device = self.pixel_mean.device
        try:
            with torch.no_grad():
                self.eval()(torch.empty(1, 3, *size, device=device))
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[0]) from error
        finally:
            self.train(training)


def check_classes(num_classes: int) -> None:
    """ValueError for a classifier without a class."""
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: a classifier needs at least one class")
