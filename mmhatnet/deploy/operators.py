"""Translations of operators to ONNX where those of torch are imprecise."""

from collections.abc import Callable


def translations() -> dict[Callable, Callable]:
    """Get the translations for torch.onnx that replace torch's own.

    torch translates a group norm to InstanceNormalization, for which
    onnxruntime adds all values of a group one by one, so the rounding error
    grows with the map. Here, rows are averaged first, then their means, then
    those of channels.
    """
    import torch
    from onnxscript import FLOAT, opset18

    # With other argument names than the operator, torch ignores this.
    def group_norm(
        input: FLOAT,
        num_groups: int,
        weight: FLOAT,
        bias: FLOAT,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,  # noqa: ARG001 (of the operator)
    ) -> FLOAT:
        op, rank = opset18, len(input.shape)

        def ints(*values: int) -> object:
            return op.Constant(value_ints=values)

        def mean(values: object) -> object:
            for axis in range(rank, 1, -1):
                values = op.ReduceMean(values, ints(axis))
            return values

        def per_channel(values: object) -> object:
            groups = op.Reshape(values, ints(num_groups, -1))
            return op.Unsqueeze(groups, ints(*range(2, rank)))

        # (N, C, H, W) to (N, groups, C / groups, H, W).
        split = op.Concat(
            ints(0, num_groups, -1), op.Shape(input, start=2), axis=0
        )
        centred = op.Reshape(input, split)
        centred = op.Sub(centred, mean(centred))
        variance = mean(op.Mul(centred, centred))
        variance = op.Add(variance, op.Constant(value_float=eps))
        scale = op.Mul(op.Reciprocal(op.Sqrt(variance)), per_channel(weight))
        out = op.Add(op.Mul(centred, scale), per_channel(bias))
        return op.Reshape(out, op.Shape(input))

    return {torch.ops.aten.group_norm.default: group_norm}
