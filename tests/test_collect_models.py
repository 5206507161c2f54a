"""Descriptions of networks and machines, the networks in JAX, and the measurement of their running times."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import requests

from gbr.collect import models
from gbr.collect.__main__ import main
from gbr.collect.models import Settings, Shape, Task, Workers, describe, draw_shapes, plan
from gbr.data import architectures
from gbr.data.architectures import figures, find_model, parameters, read_models, weights
from gbr.data.machines import Machine, find_machine, read_machine, this_machine, write_machine
from gbr.data.table import read_table
from gbr.errors import CollectError, DataError, UsageError

DATA = Path(__file__).parents[1] / "data"

# Descriptions: what the authors publish

BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "vocab_size": 30522, "intermediate_size": 3072, "max_position_embeddings": 512,
        "type_vocab_size": 2}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048}  # fmt: skip
MISTRAL = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 8, "intermediate_size": 14336,
           "sliding_window": 4096}  # fmt: skip
VIT = {"model_type": "vit", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
       "intermediate_size": 3072, "image_size": 224, "patch_size": 16}  # fmt: skip
RESNET = {"model_type": "resnet", "embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3],
          "layer_type": "bottleneck"}  # fmt: skip
VGG = {"model_type": "vgg", "depths": [2, 2, 3, 3, 3], "hidden_sizes": [64, 128, 256, 512, 512],
       "intermediate_size": 4096}  # fmt: skip

PUBLISHED = {
    "gpt2": (GPT2, 124_439_808),
    "gpt2-xl": ({**GPT2, "n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    "pythia-160m": ({**BERT, "model_type": "gpt_neox", "vocab_size": 50304}, 162_322_944),
    "llama-7b": (LLAMA, 6_738_415_616),
    "mistral-7b": (MISTRAL, 7_241_732_096),
    "qwen2-0.5b": ({**LLAMA, "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
                    "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
                    "vocab_size": 151936, "tie_word_embeddings": True}, 494_032_768),
    "bert-base": (BERT, 109_482_240),
    "roberta-base": ({**BERT, "model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514,
                      "type_vocab_size": 1}, 124_645_632),
    "vit-b16": (VIT, 86_567_656),
    "resnet-50": (RESNET, 25_557_032),
    "resnet-18": ({**RESNET, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
                  11_689_512),
    "vgg-16": (VGG, 138_357_544),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    config, count = PUBLISHED[name]
    assert parameters(find_model(config)) == count


def test_figures_of_known_models():
    found = figures(find_model(RESNET), "forward", 2, 1, "float32")
    assert found["flops"] == pytest.approx(2 * 2 * 4.09e9, rel=2e-3)  # 4.09 G multiply-adds per image of 224 x 224
    assert found["weight_bytes"] == 4 * 25_557_032
    assert found["cache_bytes"] == 0
    llama = figures(find_model(LLAMA), "decode", 3, 1000, "bfloat16")
    assert llama["cache_bytes"] == 3 * 1000 * 2 * 2 * 32 * 4096
    matrices = 6_738_415_616 - 32000 * 4096 - 65 * 4096
    assert llama["flops"] == 3 * (2 * matrices + 4 * 32 * 1000 * 4096)
    prompt = figures(find_model(LLAMA), "prefill", 1, 1000, "bfloat16")
    assert prompt["flops"] == 2 * (1000 * (matrices - 32000 * 4096) + 32000 * 4096) + 4 * 32 * 1000 * 1000 * 4096
    windowed = figures(find_model({**MISTRAL, "sliding_window": 100}), "decode", 1, 1000, "float32")
    assert windowed["cache_bytes"] == 100 * 4 * 2 * 32 * 8 * 128


def test_configurations_of_hugging_face_in_many_forms(tmp_path):
    config = tmp_path / "tiny-llama" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({**LLAMA, "num_key_value_heads": None, "rope_scaling": None}), encoding="utf-8-sig")
    by_file, by_folder = find_model(config), find_model(config.parent)
    assert by_file == by_folder
    assert (by_file.name, by_file.kv_heads, by_file.positions) == ("tiny-llama", 32, 0)
    nameless = {**LLAMA, "architectures": ["LlamaForCausalLM"]}
    del nameless["model_type"]
    assert find_model(nameless).family == "llama"
    assert find_model({**VIT, "image_size": [224, 224], "id2label": {"0": "cat", "1": "dog"}}).classes == 2
    config.write_text(json.dumps({"model_type": "llava", "text_config": LLAMA}))
    assert parameters(find_model(config)) == PUBLISHED["llama-7b"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistrall"}, "unknown model_type 'mistrall'; did you mean mistral"),
        ({"model_type": "ξ" * 99}, "known are gpt2"),
        ({"model_type": None}, "model_type is missing; expected one of gpt2"),
        ({"hidden_size": None, "hiden_size": 64}, "hidden_size is missing .* llama model; did you mean hiden_size"),
        ({"hidden_size": "4096"}, "hidden_size: expected an integer from 1 on, got '4096'"),
        ({"hidden_size": True}, "got True"),
        ({"hidden_size": 1e300}, "expected an integer"),
        ({"vocab_size": -1}, "got -1"),
        ({"num_hidden_layers": 10**6}, "1000000 layers; expected at most 10000"),
        ({"num_key_value_heads": 5}, "32 heads are no multiple of 5 key/value heads"),
        ({"num_attention_heads": 33}, "a width of 4096 is no multiple of 33 heads"),
    ],
)
def test_wrong_configurations(change, message):
    with pytest.raises(DataError, match=message):
        find_model({**LLAMA, **change})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**VIT, "patch_size": 15}, "a side of 224 is no multiple of patches of 15"),
        ({**RESNET, "depths": [1]}, "1 depths and 4 hidden_sizes"),
        ({**RESNET, "depths": 3}, "depths: expected a list"),
        ({**RESNET, "depths": [1, 1, 1, 10**6]}, "expected at most 10000"),
        ({**RESNET, "layer_type": "wide"}, "expected basic or bottleneck, got 'wide'"),
    ],
)
def test_wrong_configurations_of_images(config, message):
    with pytest.raises(DataError, match=message):
        find_model(config)


def test_unknown_names_and_files_name_near_ones(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"unknown model 'GPT-F1'; did you mean gpt-f"):
        find_model("GPT-F1")
    with pytest.raises(UsageError, match=r"unknown model 'zzz'; expected a config.json, .* gpt-a"):
        find_model("zzz")
    with pytest.raises(DataError, match=r"absent.json: cannot be read"):
        find_model(tmp_path / "absent.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        find_model(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="expected an object"):
        find_model(tmp_path / "a.json")

    def offline(*_args, **_options):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(DataError, match=r"co/a/llama/.*\(no connection: ConnectionError\);.*save the config") as found:
        find_model("a/llama")
    assert "did you mean" not in str(found.value)


def test_names_of_the_hub_are_read_over_the_network(monkeypatch):
    class Reply:
        raw = SimpleNamespace(read=lambda size, decode_content: json.dumps(GPT2).encode())

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def raise_for_status(self):
            pass

    asked = []
    monkeypatch.setattr(requests, "get", lambda address, **_: asked.append(address) or Reply())
    assert parameters(find_model("openai-community/gpt2")) == PUBLISHED["gpt2"][1]
    assert asked == ["https://huggingface.co/openai-community/gpt2/resolve/main/config.json"]


def test_files_of_descriptions(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    path = tmp_path / "mine.toml"
    small, net = (
        'config = "config.json", n_layer = 2',
        'model_type = "gru", hidden_size = 8, num_layers = 1, vocab_size = 9',
    )
    path.write_text(f"[models]\nsmall = {{{small}}}\nnet = {{{net}}}\n")
    found = read_models(path)
    assert (found["small"].layers, found["small"].hidden, found["net"].family) == (2, 768, "gru")
    assert list(read_models(tmp_path / "config.json")) == [tmp_path.name]
    for text, message in (
        ("[models", "not TOML"),
        ("a = 1", r"no models; expected a section \[models\]"),
        ("[models]\na = 1", r"mine.toml: a: expected the keys of a config.json in braces, got 1"),
        ("[models]\na = {n_embd = 1}", "a: model_type is missing"),
        ('[models]\na = {config = "none.json"}', "none.json: cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_models(path)


def test_own_models_cover_all_families_from_1_m_to_300_m():
    found = architectures.models()
    sizes = [parameters(model) / 1e6 for model in found.values()]
    assert min(sizes) < 2 < 250 < max(sizes) < 300
    assert {model.family for model in found.values()} == set(architectures.FAMILIES)


# Machines


def test_machines_by_name_and_by_hand(tmp_path):
    card = find_machine("RTX 4090")
    assert (card.vendor, card.kind, card.cores, card.bandwidth_gbs) == ("NVIDIA", "gpu", 128, {0: 1008.0})
    assert card.columns("float32", 1)["peak_gflops"] == pytest.approx(82_580, rel=0.01)
    assert card.columns("bfloat16", 8)["peak_gflops"] > card.columns("float32", 8)["peak_gflops"]
    with pytest.raises(UsageError, match=r"unknown device 'RTX 4091'; did you mean"):
        find_machine("RTX 4091")
    path = tmp_path / "a.toml"
    for machine in (
        card,
        Machine("é", "AMD", "cpu", 8, 3e3, bandwidth_gbs={1: 20.0, 8: 80.0}, peak_gflops={"float32": {8: 7.0}}),
    ):
        write_machine(path, machine)
        assert read_machine(path) == machine
    columns = [read_machine(path).columns("float32", threads) for threads in (1, 2, 4, 64)]
    assert [each["bandwidth_gbs"] for each in columns] == [20.0, 20.0, 80.0, 80.0]
    assert read_machine(path).columns("bfloat16", 1)["peak_gflops"] is None
    path.write_text(
        'name = "a"\nvendor = "b"\nkind = "gpu"\ncores = 7\nbandwidth_gbs = 936\n[peak_gflops]\nfloat32 = 35000'
    )
    assert read_machine(path).columns("float32", 4)["peak_gflops"] == 35000.0
    path.write_text('device = "RTX 4090"\nname = "half"\ncores = 64\nbandwidth_gbs = 504')
    assert read_machine(path) == replace(card, name="half", cores=64, bandwidth_gbs={0: 504})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('vendor = "b"', "name: expected a string, got None"),
        ('name = "a"\nvendor = "b"\nkind = "npu"', "kind: expected cpu, gpu, tpu, got 'npu'"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"', "cores: expected a positive number, got None"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"\ncores = -1', "got -1"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"\ncores = 1\nclock_mhz = nan', "clock_mhz: expected a positive number"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"\ncores = 1\nclocks = 1', "unknown key clocks; expected name"),
        ('device = "A100"\nunits = 54', "unknown key units; .* as for networks; --hardware takes other files"),
        ('device = "A1000"', "unknown device 'A1000'; did you mean NVIDIA A100"),
        ("device = 7", "device: expected a name, got 7"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"\ncores = 1\nbandwidth_gbs = {all = 1}', "by number of threads"),
        ('name = "a"\nvendor = "b"\nkind = "cpu"\ncores = 1\npeak_gflops = {int3 = 1}', "figures of float32, bfloat16"),
    ],
)
def test_wrong_machines(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        find_machine(path)


def test_this_machine_from_the_files_of_linux(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "vendor_id\t: GenuineIntel\nmodel name\t: Xeon  9\ncpu MHz\t\t: 2100.4\nflags\t: avx512f\n"
    )
    for index, (level, size) in enumerate(((1, "48K"), (2, "2048K"), (3, "60M"))):
        cache = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        cache.mkdir(parents=True)
        for name, value in (("level", level), ("size", size), ("type", "Unified"), ("ways_of_associativity", 8),
                            ("coherency_line_size", 64)):  # fmt: skip
            (cache / name).write_text(str(value))
    found = this_machine(None, tmp_path)
    assert (found.name, found.vendor, found.clock_mhz, found.vector_bytes) == ("Xeon 9", "Intel", 2100, 64)
    assert (found.l1_kb, found.l2_mb, found.l3_mb) == (48, 2, 60)
    assert this_machine("mine", tmp_path / "absent").name == "mine"


# Networks

TINY = {
    "gpt": {**GPT2, "n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 31},
    "llama": {**LLAMA, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 48, "vocab_size": 31},
    "mistral": {**MISTRAL, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                "num_key_value_heads": 1, "intermediate_size": 48, "vocab_size": 31, "sliding_window": 16},
    "lstm": {"model_type": "lstm", "hidden_size": 16, "num_layers": 2, "vocab_size": 31},
    "gru": {"model_type": "gru", "hidden_size": 16, "num_layers": 1, "vocab_size": 31, "tie_word_embeddings": True},
    "bert": {**BERT, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48},
    "vit": {**VIT, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32},
    "resnet": {**RESNET, "hidden_sizes": [16, 32], "depths": [1, 2], "embedding_size": 8, "image_size": 34},
    "vgg": {**VGG, "hidden_sizes": [8, 16], "depths": [1, 1], "intermediate_size": 24, "image_size": 18},
}  # fmt: skip


def tiny(family):
    return find_model({**TINY[family], "name": f"tiny-{family}"})


@pytest.mark.parametrize("family", ["gpt", "llama", "lstm", "gru"])
def test_one_more_token_continues_a_prompt(family):
    networks = pytest.importorskip("gbr.collect.networks")
    jax = networks.jax
    model, length = tiny(family), 9
    w = networks.random_weights(model, "float32")
    assert {name: each.shape for name, each in w.items()} == {name: each.shape for name, each in weights(model).items()}
    tokens = np.random.default_rng(0).integers(0, 31, (2, length)).astype(np.int32)
    prompt = networks.program(model, "prefill", 2, length, "float32")[0]
    both = jax.jit(lambda w, tokens: (prompt(w, tokens, ()), prompt(w, tokens[:, :-1], ())))
    (whole, after), (_, state) = both(w, tokens)
    step, (inputs, expected) = networks.program(model, "decode", 2, length, "float32")
    if model.heads:
        state = jax.tree.map(lambda each: np.pad(each, ((0, 0), (0, 0), (0, 1), (0, 0))), state)
    assert jax.tree.map(np.shape, state) == jax.tree.map(lambda each: each.shape, expected)
    assert inputs.shape == (2, 1)
    last, state = jax.jit(step)(w, tokens[:, -1:], state)
    np.testing.assert_allclose(last, whole, atol=1e-5)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("family", TINY)
def test_operations_are_those_that_xla_counts(family):
    networks = pytest.importorskip("gbr.collect.networks")
    jax, model = networks.jax, tiny(family)
    shapes = {name: jax.ShapeDtypeStruct(each.shape, "bfloat16") for name, each in weights(model).items()}
    for phase in model.phases:
        function, arguments = networks.program(model, phase, 3, 12, "bfloat16")
        lowered = jax.jit(function).lower(shapes, *arguments)
        expected = lowered.cost_analysis()["flops"]
        found = figures(model, phase, 3, 12, "bfloat16")["flops"]
        if (family, phase) not in (("lstm", "prefill"), ("gru", "prefill")):  # XLA counts the body of a loop once
            assert 0.6 < found / expected < 1.2
        counts = networks.program_figures(model, phase, 3, 12, "bfloat16")
        matrices = sum(weight.uses != 0 for weight in weights(model).values()) + model.tied
        assert counts["dots"] + counts["convolutions"] == matrices + 2 * model.layers * bool(model.heads)
        assert counts["operations"] >= sum(counts[name] for name in networks.CLASSES)


# Measuring


class Here:
    """Stands for the processes that measure, without starting any."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, threads, function, *args):
        if function is models.measure_rates:
            return 10.0 * threads, {"float32": 50.0 * threads, "bfloat16": 40.0 * threads}
        return function(*args)


@pytest.fixture
def here(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr(models, "Workers", Here)
    monkeypatch.setattr(models, "_ENOUGH_NS", 1)


def write_models(folder, *families):
    path = folder / "models.toml"
    lines = [f"tiny-{family} = {{{', '.join(f'{key} = {json.dumps(value)}' for key, value in TINY[family].items())}}}"
             for family in families]  # fmt: skip
    path.write_text("\n".join(["[models]", *lines]))
    return path


def test_command_measures_resumes_and_merges(tmp_path, here, capsys):
    path = write_models(tmp_path, "gru", "vgg")
    args = ["models", "--models", str(path), "--threads", "1", "--dtypes", "float32", "--batch", "2",
            "--sequence", "4,8", "--rounds", "2", "--device", "here", "--out", str(tmp_path)]  # fmt: skip
    folder = tmp_path / "table/models"
    assert main([*args, "--limit", "2", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["rows"]) == first["retest"]["rows"] == 2
    kept = models.read_rows(folder)
    assert main(args) == 0
    shown = capsys.readouterr()
    assert "tiny-" in shown.out
    assert "retest: half of 2 rows within" in shown.err
    rows = models.read_rows(folder)
    assert len(rows) == 4
    assert rows.join(kept, on=kept.columns, how="semi", nulls_equal=True).height == 2
    assert main(args) == 0
    assert "all rows have been measured" in capsys.readouterr().err

    row = rows.row(by_predicate=(pl.col("phase") == "prefill") & (pl.col("sequence") == 8), named=True)
    assert 0 < row["time"] <= row["median"]
    assert row["peak_bytes"] > row["weight_bytes"]
    assert (row["bandwidth_gbs"], row["peak_gflops"], row["cores"]) == (10.0, 50.0, os.cpu_count())
    again = describe(read_models(path)["tiny-gru"], Shape("prefill", 2, 8), "float32", 1,
                     read_machine(folder / "machine-here.toml"))  # fmt: skip
    assert {name: row[name] for name in again} == again

    table = read_table(folder)
    assert {(group.name, group.split) for group in table.groups} == {
        ("here-1-float32-decode", "valid"), ("here-1-float32-prefill", "valid"), ("here-1-float32-forward", "train"),
    }  # fmt: skip
    assert table.repeat is not None
    assert "family" not in table.frame.columns

    other = tmp_path / "other.parquet"
    rows.filter(pl.col("family") == "gru").with_columns(device=pl.lit("there")).write_parquet(other)
    assert main(["models", "--out", str(tmp_path), "--merge", str(other), str(folder / "data.parquet")]) == 0
    assert models.read_rows(folder)["device"].value_counts(sort=True).rows() == [("here", 4), ("there", 3)]
    capsys.readouterr()
    assert main(["models", "--out", str(tmp_path), "--table"]) == 0
    assert "7 rows of 2 models of 2 families on here, there." in capsys.readouterr().out
    assert main(["models", "--out", str(tmp_path / "none"), "--table"]) == 1


def test_a_model_that_fails_is_left_out(tmp_path, here, monkeypatch, capsys):
    fits = models._fits
    monkeypatch.setattr(models, "_fits", lambda task, machine: task.model.family != "vgg" and fits(task, machine))
    path = write_models(tmp_path, "vgg", "gru")
    args = ["models", "--models", str(path), "--threads", "1", "--dtypes", "bfloat16", "--batch", "1", "--rounds", "1"]
    assert main([*args, "--out", str(tmp_path)]) == 1
    assert "tiny-vgg, bfloat16, 1 threads: left out: the memory" in capsys.readouterr().err
    assert models.read_rows(tmp_path / "table/models")["model"].to_list() == ["tiny-gru"] * 2


def test_time_limit_ends_between_models(tmp_path, here):
    tasks = [Task(tiny(family), "float32", 1, (Shape("forward", 1, 1),)) for family in ("vgg", "resnet")]
    assert models.measure(tmp_path, tasks, Settings(1), seconds=-1) is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--names", "lama"], "unknown model or family 'lama'; did you mean llama"),
        (["--threads", "1000"], "--threads 1000: this process may use"),
        (["--threads", "0"], "expected positive integers, got '0'"),
        (["--dtypes", "int8"], "expected some of float32,bfloat16"),
        (["--models", "none.toml"], "none.toml: cannot be read"),
        (["--merge", "none.parquet"], "none.parquet: cannot be read"),
    ],
)
def test_wrong_options(tmp_path, option, message, capsys):
    assert main(["models", "--out", str(tmp_path), *option]) in (1, 2)
    assert message in capsys.readouterr().err


def test_foreign_rows_are_refused(tmp_path):
    pl.DataFrame({"time": [1.0]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'device'"):
        models.read_rows(tmp_path / "a.parquet")


def test_shapes_are_drawn_within_limits_and_in_the_same_way():
    for model in [*architectures.models().values()][::6]:
        for dtype in ("float32", "bfloat16"):
            shapes = [*draw_shapes(model, dtype, 0)]
            assert shapes == [*draw_shapes(model, dtype, 0)]
            assert {shape.phase for shape in shapes} == set(model.phases)
            assert len(set(shapes)) == len(shapes) <= 2
    tasks = plan(architectures.models().values(), ("float32",), (1,), 0)
    assert tasks != plan(architectures.models().values(), ("float32",), (1,), 1)
    assert sum(len(task.shapes) for task in models._first(tasks, 7)) == 7


def test_processes_are_pinned_and_their_death_is_reported():
    with Workers() as workers:
        assert len(workers(1, os.sched_getaffinity, 0)) == 1
        with pytest.raises(CollectError, match="died; probably the memory"):
            workers(1, os._exit, 9)
        assert workers(1, os.getpid) != os.getpid()


# The rows that come with gbr


def test_embedded_rows_are_complete_and_described_as_new_ones():
    folder = DATA / "table/models"
    rows, table = models.read_rows(folder), read_table(folder)
    assert len(rows) >= 300
    assert (folder / "data.parquet").stat().st_size < 500_000
    assert not sum(rows.null_count().row(0))
    assert {group.split for group in table.groups} == {"train", "valid", "test"}
    assert set(rows["family"]) == set(architectures.FAMILIES)
    machine = read_machine(*folder.glob("machine-*.toml"))
    known = architectures.models()
    for row in rows.iter_rows(named=True):
        shape = Shape(row["phase"], row["batch"], row["sequence"])
        expected = describe(known[row["model"]], shape, row["dtype"], row["threads"], machine, program=False)
        assert {name: row[name] for name in expected} == expected
    for threads, least in ((1, 0.1), (2, 0.15)):
        assert models.retest(rows.filter(pl.col("threads") == threads))["nine tenths"] < least
