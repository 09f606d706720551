"""The factor that keeps small gradients above the smallest numbers of fp16."""

import torch
from torch import Tensor

from trainer.config import Precision


class Scale:
    """What keeps small gradients alive in fp16: the loss is multiplied, the gradient divided, on the device.

    Halved by each step whose gradient is not finite (which is then skipped), doubled after 2000 good ones
    (Micikevicius et al. 2018, section 3.2). For other precisions it is 1 and stays.
    """

    START, GROW_AFTER, FLOOR = 2.0**16, 2000, 2.0**-16

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.moves = precision == "fp16"
        # value, good steps since it last changed
        self.state = torch.tensor([self.START if self.moves else 1.0, 0.0], device=device)

    @property
    def value(self) -> Tensor:
        return self.state[0]

    def stepped(self, good: Tensor) -> None:
        """Hear whether the step's gradient was finite (boolean scalar on the device)."""
        if not self.moves:
            return
        since = self.state[1] + 1
        grows = since >= self.GROW_AFTER
        after_good = torch.stack([torch.where(grows, 2 * self.value, self.value), torch.where(grows, 0 * since, since)])
        after_bad = torch.stack([self.value / 2, 0 * since])
        self.state.copy_(torch.where(good, after_good, after_bad))
