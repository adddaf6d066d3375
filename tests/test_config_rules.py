import logging

import pytest

from quantize.config import OpRule, parse_config, pinned_float
from quantize.config.rules import ActivationRule, WeightRule, matching
from quantize.errors import ConfigError

FLOAT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
NODES = [
    ("conv1", "Conv"),
    ("relu1", "Relu"),
    ("gemm", "Gemm"),
    ("", "Gather"),
    ("same", "Conv"),
    ("same", "Add"),
]


def rules(**quantization) -> tuple[OpRule, ...]:
    tree = {"model": {"name": "m", "framework": "onnxrt_qdq"}, "quantization": quantization}
    return parse_config(tree).op_rules()


def pinned(nodes=NODES, **quantization) -> tuple[str, ...]:
    return pinned_float(rules(**quantization), nodes)


def test_rules_are_typed_and_keep_the_order_of_the_file():
    given = rules(
        model_wise={"weight": {"granularity": "per_channel, per_tensor", "bit": 7.0}},
        optype_wise={"Conv": {"activation": {"dtype": ["uint8", "fp32"], "scheme": "asym"}}},
        op_wise={"b": FLOAT, "a": {"weight": {"algorithm": ["minmax"]}}},
    )
    assert given == (
        OpRule("model", ".*", WeightRule(granularity=("per_channel", "per_tensor"), bit=(7.0,))),
        OpRule("optype", "Conv", None, ActivationRule(dtype=("uint8", "fp32"), scheme=("asym",))),
        OpRule("op", "b", WeightRule(dtype=("fp32",)), ActivationRule(dtype=("fp32",))),
        OpRule("op", "a", WeightRule(algorithm=("minmax",))),
    )
    assert len({*given}) == 4
    assert rules() == ()


def test_names_match_whole():
    assert pinned(op_wise={"conv1": FLOAT}) == ("conv1",)
    assert pinned(op_wise={"(conv|relu).*": FLOAT}) == ("conv1", "relu1")
    with pytest.raises(ConfigError):
        pinned(op_wise={"conv": FLOAT})


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("gemm_MatMul", ("gemm",)),
        ("gemm_Add", ("gemm",)),
        ("gemm_MatMul_quant", ("gemm",)),
        ("conv1_quant", ("conv1",)),
        ("conv1_nc_rename_0", ("conv1",)),
        ("Gather_nc_rename_3", ("",)),
        ("Conv_nc_rename_4", ("same",)),
        ("Conv_nc_rename_4|conv1", ("conv1", "same")),
        ("Conv_nc_rename_0", ("conv1",)),
        ("Gather_.*?", ("",)),
    ],
)
def test_the_names_that_inc_gives_match_their_node(pattern, found):
    assert pinned(op_wise={pattern: FLOAT}) == found


def test_a_pattern_on_real_names_does_not_reach_for_invented_ones():
    nodes = [("a_MatMul", "MatMul"), ("b", "Conv"), ("c_quant", "Conv")]
    assert pinned(nodes, op_wise={".*_MatMul": FLOAT}) == ("a_MatMul",)
    assert pinned(nodes, op_wise={".*_quant": FLOAT}) == ("c_quant",)
    assert pinned(nodes, op_wise={".*_nc_rename_.*|b": FLOAT}) == ("b",)


def test_a_suffix_alone_matches_nothing():
    for pattern in ("_quant", r"conv1\_quant_quant"):
        with pytest.raises(ConfigError):
            pinned(op_wise={pattern: FLOAT})


def test_narrow_rules_override_wide_ones():
    int8 = {"weight": {"dtype": ["int8"]}, "activation": {"dtype": ["uint8"]}}
    assert pinned(optype_wise={"Conv": FLOAT}) == ("conv1", "same")
    assert pinned(optype_wise={"Conv": FLOAT}, op_wise={"conv1": int8}) == ("same",)
    assert pinned(model_wise=FLOAT, optype_wise={".*": int8}, op_wise={"gemm": FLOAT}) == ("gemm",)


def test_a_rule_on_all_nodes_needs_none():
    assert pinned([], model_wise=FLOAT) == ()
    assert pinned([("a\nb", "Conv")], model_wise=FLOAT) == ("a\nb",)


def test_one_float_side_pins_and_an_open_choice_does_not():
    assert pinned(op_wise={"conv1": {"weight": {"dtype": ["fp32", "bf16"]}}}) == ("conv1",)
    assert pinned(op_wise={"conv1": {"activation": {"dtype": ["fp32"]}}}) == ("conv1",)
    assert pinned(op_wise={"conv1": {"weight": {"dtype": ["int8", "fp32"]}}}) == ()
    assert pinned(op_wise={"conv1": {"weight": {"scheme": ["sym"]}}}) == ()


def test_a_name_that_matches_nothing_is_an_error_that_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        pinned(op_wise={"conv2": {"weight": {"scheme": ["sym"]}}})
    assert str(caught.value) == (
        "quantization.op_wise 'conv2' matches none of the model's 6 nodes; "
        "correct the pattern or remove it; the nearest node is 'conv1'"
    )
    with pytest.raises(ConfigError, match="have no names"):
        pinned([("", "Conv")], op_wise={"conv2": FLOAT})


def test_a_type_that_matches_nothing_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert pinned(optype_wise={"LSTM": FLOAT}) == ()
    assert "'LSTM' matches no operator" in caplog.text


def test_many_nodes_take_no_time():
    nodes = [(f"block_{n}/conv", "Conv") for n in range(5000)]
    found = pinned(nodes, op_wise={r"block_4\d{3}/.*": FLOAT, "(b+)+x|block_1/conv": FLOAT})
    assert len(found) == 1001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"(": FLOAT}, "`quantization.op_wise.(` is no regular expression"),
        ({"(?=a)": FLOAT}, "look-arounds"),
        (
            {"a": {"wieght": {}}},
            "`quantization.op_wise.a.wieght` is an unknown key; write `weight`",
        ),
        ({"a": {"weight": {"dtype": ["fp23"]}}}, "op_wise.a.weight.dtype` is 'fp23'; write `fp32`"),
        ({"a": {"weight": {"bit": [8]}}}, "op_wise.a.weight.bit` is [8.0]; write numbers above 0"),
        ({"a": {"weight": {"dtype": [3]}}}, "op_wise.a.weight.dtype` is [3]; write a list out of"),
        (["a"], "`quantization.op_wise` is ['a']; write patterns with options"),
    ],
)
def test_faulty_rules_are_named_down_to_the_key(options, message):
    with pytest.raises(ConfigError) as caught:
        rules(op_wise=options)
    assert message in str(caught.value)


def test_a_rule_names_the_nodes_it_speaks_of():
    nodes = [("fc", "Gemm"), ("conv1", "Conv"), ("conv2", "Conv")]
    assert matching(OpRule("model", ".*"), nodes) == ("fc", "conv1", "conv2")
    assert matching(OpRule("optype", "Co.*"), nodes) == ("conv1", "conv2")
    assert matching(OpRule("op", "fc_MatMul"), nodes) == ("fc",)
    with pytest.raises(ConfigError, match="conv3"):
        matching(OpRule("op", "conv3"), nodes)
