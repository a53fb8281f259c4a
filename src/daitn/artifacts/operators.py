"""The operators a graph may use: a closed table, checked on the bytes before torch sees them.

Every entry is a pure numeric operation of ATen: tensors and numbers in, tensors out, touching nothing but its arguments
and the random generator. What is *not* here is the point: nothing opens files or libraries, runs Python, talks to other
processes, reads memory it was not given (`empty`, `as_strided`, `set_`, `resize_`, `_unsafe_index`) or turns data into
control flow (`item`). In-place operators (name ends in `_`) may change buffers the graph declares and its own
intermediate results, never parameters.

In the tables a plain word is `aten.<word>.default`; `word.overload` is `aten.word.overload`; `@0,1` names the positions
of arguments that set a size, whose product of literals the checker bounds (`LITERAL_ELEMENTS`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec


class Family(StrEnum):
    """Why an operator is safe: what kind of thing it does."""

    TUPLE = "takes one value out of an operator's several results"
    ARITHMETIC = "computes each element from elements of its arguments"
    COMPARISON = "compares elements"
    ACTIVATION = "applies a fixed function to each element"
    REDUCTION = "sums, averages or searches along dimensions; the result is not larger than its argument"
    SHAPE = "the same elements in another shape or order"
    GROWTH = "repeats or pads elements; sizes are bounded by the checker"
    FACTORY = "makes a tensor of a size bounded by the checker, filled with numbers"
    INDEX = "picks or places elements by index, with bounds checked by ATen"
    LINEAR = "matrix products"
    CONVOLUTION = "convolutions; padding is bounded by the checker"
    POOLING = "pools neighbourhoods; sizes are bounded by the checker"
    NORMALISATION = "normalises; running statistics are declared buffers"
    RANDOM = "draws from the generator the visit was seeded with"
    ATTENTION = "scaled dot-product attention"
    RECURRENT = "LSTM, GRU and simple recurrent layers"
    EMBEDDING = "looks up rows of a table, with bounds checked by ATen"
    LOSS = "losses"
    CONVERSION = "changes element type, or copies"


class Operator(msgspec.Struct, frozen=True):
    """An allowed operator: its name in graphs, its family, which arguments set sizes, whether it writes in place."""

    name: str
    family: Family
    sizes: tuple[int, ...]
    in_place: bool


def _words(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


GETITEM: Final = "getitem"
"""Takes result number `arguments[1]` of a node with several results; the only operator that is not ATen's."""

LITERAL_ELEMENTS: Final = 1 << 28
"""Largest product of literal sizes given to one operator: 1 GiB of float32; a 16k x 16k mask fits."""

WORDS: Final = _words(
    """
    none tanh floor trunc constant reflect replicate circular same valid ij xy sum mean prod amax amin add multiply
    left right
    """
)
"""Strings an argument may be: approximations, rounding, padding modes, reductions. ATen compares, it never parses."""

ARGUMENT_NAMES: Final = _words(
    """
    dtype device memory_format alpha beta value scale enable_gqa rounding_mode approximate include_self out_int32
    right side indexing output_size non_blocking copy correction stable descending dim log_target invert assume_unique
    sparse_grad decimals attn_mask reduce implicit
    """
)
"""Names under which an argument may be given; everything else is positional."""

EQUATION: Final = re.compile(r"[A-Za-z, ]{1,120}(->[A-Za-z ]{0,60})?")
"""An Einstein sum; matched as a whole."""

_TABLE: Final[dict[Family, str]] = {
    Family.ARITHMETIC: """
        add.Tensor add.Scalar add_.Tensor add_.Scalar sub.Tensor sub.Scalar sub_.Tensor sub_.Scalar rsub.Tensor
        rsub.Scalar mul.Tensor mul.Scalar mul_.Tensor mul_.Scalar div.Tensor div.Scalar div_.Tensor div_.Scalar
        div.Tensor_mode div.Scalar_mode div_.Tensor_mode div_.Scalar_mode divide.Tensor multiply.Tensor
        subtract.Tensor true_divide.Tensor floor_divide floor_divide.Scalar remainder.Scalar remainder.Tensor
        fmod.Scalar fmod.Tensor pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar pow_.Scalar pow_.Tensor square square_
        sqrt sqrt_ rsqrt rsqrt_ reciprocal reciprocal_ neg neg_ negative abs abs_ absolute sign sgn exp exp_ exp2
        expm1 log log_ log2 log10 log1p logaddexp logaddexp2 sin sin_ cos cos_ tan asin acos atan atan2 sinh cosh
        asinh acosh atanh erf erfc erfinv lgamma digamma floor floor_ ceil ceil_ round round.decimals trunc frac clamp
        clamp.Tensor clamp_ clamp_.Tensor clamp_min clamp_min_ clamp_min.Tensor clamp_max clamp_max_ clamp_max.Tensor
        clip maximum minimum fmax fmin max.other min.other lerp.Scalar lerp.Tensor lerp_.Scalar lerp_.Tensor addcmul
        addcmul_ addcdiv addcdiv_ hypot nan_to_num nan_to_num_ where.self where.ScalarOther where.ScalarSelf
        where.Scalar where masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor fill.Scalar
        fill_.Scalar fill_.Tensor zero_ deg2rad rad2deg xlogy.Tensor xlogy.Scalar_Other copysign.Tensor
        copysign.Scalar special_erf special_expm1 bitwise_and.Tensor bitwise_and.Scalar bitwise_or.Tensor
        bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar bitwise_not __and__.Tensor __or__.Tensor
        __xor__.Tensor __and__.Scalar __or__.Scalar __iand__.Tensor __ior__.Tensor bitwise_left_shift.Tensor_Scalar
        bitwise_right_shift.Tensor_Scalar logical_and logical_or logical_xor logical_not logical_not_ logical_and_
        logical_or_
    """,
    Family.COMPARISON: """
        eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
        ge.Scalar not_equal.Scalar not_equal.Tensor greater.Tensor greater.Scalar less.Tensor less.Scalar
        greater_equal.Scalar greater_equal.Tensor less_equal.Scalar less_equal.Tensor isnan isinf isfinite isclose
        isin.Tensor_Tensor isin.Tensor_Scalar
    """,
    Family.ACTIVATION: """
        relu relu_ relu6 relu6_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu gelu_ silu silu_ mish mish_
        sigmoid sigmoid_ hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ tanh tanh_ softplus
        softshrink hardshrink threshold threshold_ log_sigmoid prelu glu softmax.int log_softmax.int _softmax
        _log_softmax special_log_softmax special_softmax
    """,
    Family.REDUCTION: """
        sum sum.dim_IntList mean mean.dim prod prod.dim_int max min max.dim min.dim amax amin aminmax argmax argmin
        any any.dim any.dims all all.dim all.dims logsumexp var var.dim var.correction std std.dim std.correction
        var_mean.dim var_mean.correction std_mean.correction norm.Scalar norm.ScalarOpt_dim linalg_vector_norm
        linalg_norm count_nonzero diff count_nonzero.dim_IntList cumsum cumprod logcumsumexp cummax cummin median
        median.dim nanmean nansum frobenius_norm.dim topk sort sort.stable argsort kthvalue mode dist trace
    """,
    Family.SHAPE: """
        view view_as view.dtype reshape reshape_as _unsafe_view flatten.using_ints unflatten.int squeeze squeeze.dim
        squeeze.dims squeeze_.dim unsqueeze unsqueeze_ transpose.int transpose_ t numpy_T mT permute movedim.int
        movedim.intlist moveaxis.int moveaxis.intlist swapaxes swapdims select.int narrow slice.Tensor split.Tensor
        split.sizes split_with_sizes chunk unbind.int tensor_split.sections tensor_split.indices cat concat
        concatenate stack hstack vstack dstack flip fliplr flipud roll rot90 diagonal diag diag_embed tril tril_ triu
        triu_ unfold pixel_shuffle pixel_unshuffle channel_shuffle atleast_1d atleast_2d atleast_3d broadcast_tensors
        meshgrid meshgrid.indexing expand_as ravel block_diag cartesian_prod unsafe_split.Tensor unsafe_chunk alias
        adjoint matrix_H
    """,
    Family.GROWTH: """
        expand@1 repeat@1 tile@1 broadcast_to@1 repeat_interleave.self_int@1 constant_pad_nd@1 pad@1
        reflection_pad1d@1 reflection_pad2d@1 reflection_pad3d@1 replication_pad1d@1 replication_pad2d@1
        replication_pad3d@1 one_hot@1 upsample_nearest1d@1 upsample_nearest2d@1 upsample_nearest3d@1
        upsample_linear1d@1 upsample_bilinear2d@1 upsample_bicubic2d@1 upsample_trilinear3d@1
        upsample_nearest1d.vec@1,2 upsample_nearest2d.vec@1,2 upsample_nearest3d.vec@1,2 upsample_linear1d.vec@1,3
        upsample_bilinear2d.vec@1,3 upsample_bicubic2d.vec@1,3 upsample_trilinear3d.vec@1,3 im2col@1,3 col2im@1,2
        grid_sampler affine_grid_generator@1 kron outer
    """,
    Family.FACTORY: """
        zeros@0 ones@0 full@0 arange@0 arange.start@0,1 arange.start_step@0,1 linspace@2 eye@0 eye.m@0,1 scalar_tensor
        zeros_like ones_like full_like new_zeros@1 new_ones@1 new_full@1 tril_indices@0,1 triu_indices@0,1
    """,
    Family.INDEX: """
        index.Tensor index_select gather scatter.src scatter.value scatter_.src scatter_.value scatter_add
        scatter_add_ scatter_reduce.two scatter_reduce_.two scatter.reduce index_add index_add_ index_copy index_copy_
        index_fill.int_Scalar index_fill_.int_Scalar index_put index_put_ masked_select masked_scatter masked_scatter_
        take take_along_dim select_scatter slice_scatter diagonal_scatter nonzero nonzero_numpy argwhere
        searchsorted.Tensor bucketize.Tensor
    """,
    Family.LINEAR: """
        linear bilinear matmul mm bmm addmm addmm_ addbmm baddbmm addmv mv dot inner einsum linalg_matmul
        linalg_multi_dot chain_matmul tensordot cdist _cdist_forward cosine_similarity pairwise_distance cross
        linalg_cross linalg_vecdot
    """,
    Family.CONVOLUTION: """
        conv1d@4 conv2d@4 conv3d@4 conv1d.padding@5 conv2d.padding@5 conv3d.padding@5 convolution@4,7
        conv_transpose1d@3,4,5 conv_transpose2d.input@3,4,5 conv_transpose3d.input@3,4,5
    """,
    Family.POOLING: """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d@1 adaptive_avg_pool2d@1 adaptive_avg_pool3d@1
        adaptive_max_pool1d@1 adaptive_max_pool2d@1 adaptive_max_pool3d@1 max_unpool2d@2 max_unpool3d@2
    """,
    Family.NORMALISATION: """
        layer_norm native_layer_norm batch_norm group_norm instance_norm rms_norm
    """,
    Family.RANDOM: """
        dropout dropout_ native_dropout alpha_dropout alpha_dropout_ feature_dropout feature_dropout_
        feature_alpha_dropout rand@0 randn@0 rand_like randn_like randint@1 randint.low@2 randint_like
        randint_like.low_dtype randperm@0 bernoulli bernoulli.p bernoulli_.float bernoulli_.Tensor uniform uniform_
        normal_ exponential_ multinomial@1 rrelu rrelu_ rrelu_with_noise_functional
    """,
    Family.ATTENTION: """
        scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
    """,
    Family.RECURRENT: """
        lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    """,
    Family.EMBEDDING: """
        embedding embedding_bag embedding_bag.padding_idx
    """,
    Family.LOSS: """
        cross_entropy_loss nll_loss nll_loss2d nll_loss_nd mse_loss l1_loss smooth_l1_loss huber_loss
        binary_cross_entropy binary_cross_entropy_with_logits kl_div poisson_nll_loss soft_margin_loss
        multi_margin_loss multilabel_margin_loss cosine_embedding_loss margin_ranking_loss hinge_embedding_loss
        triplet_margin_loss ctc_loss.Tensor ctc_loss.IntList
    """,
    Family.CONVERSION: """
        to.dtype to.dtype_layout to.device to.other to.prim_Device _to_copy type_as clone contiguous detach detach_
        lift_fresh_copy lift_fresh copy copy_
    """,
}


def _read_table() -> dict[str, Operator]:
    """The table, one entry per operator."""
    operators = {GETITEM: Operator(GETITEM, Family.TUPLE, (), in_place=False)}
    for family, words in _TABLE.items():
        for word in words.split():
            short, _, positions = word.partition("@")
            base, _, overload = short.partition(".")
            name = f"aten.{base}.{overload or 'default'}"
            sizes = tuple(int(position) for position in positions.split(",")) if positions else ()
            in_place = base.endswith("_") and not base.endswith("__")
            operators[name] = Operator(name, family, sizes, in_place or base in ("__iand__", "__ior__"))
    return operators


OPERATORS: Final[dict[str, Operator]] = _read_table()
"""Every operator a graph may use, by name."""
