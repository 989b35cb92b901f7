"""Embeddings of class names and words: every way to make them, the folder they lie in, and the ids that become vectors."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.spec import LabelSpec
from expert_zoo.weights.folder import ENVIRONMENT, WeightsFolder
from expert_zoo.weights.lock import SEEDED
from tests.small_store import Signs, label, small_store
from tests.stand_ins import Darkness, Grey, Squares, card
from trainer.embeddings.basis import basis_bytes, fit, read_basis
from trainer.embeddings.clip_text import CLIP, ClipTexts
from trainer.embeddings.folder import WORDS_FILE, Embeddings
from trainer.embeddings.lookup import Lookup
from trainer.embeddings.origin import WIDTH
from trainer.embeddings.random_vectors import RandomEncoder
from trainer.embeddings.released import ReleasedEncoder, read_pca
from trainer.embeddings.table import EmbeddingTable, read_table, table_bytes
from trainer.embeddings.words import words_of
from trainer.embeddings.writing import Means, class_table, embed, extended, make_encoder, means_of
from trainer.prismer.config import EMBEDDING

RANDOM = Means(method="random")


def classes(*names: str, name: str = "seg") -> Any:
    spec = LabelSpec(
        kind="classes", quantity="class", dtype="uint8", channels=1, ignore=255, class_names=names, resample="nearest"
    )
    return card(name, spec)


def table_of(*names: str, seed: int = 0) -> EmbeddingTable:
    return class_table(classes(*names), RandomEncoder(seed=seed))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# ---- random


def test_a_random_vector_depends_on_the_name_and_the_seed_alone() -> None:
    encoder = RandomEncoder()
    one, two = encoder.words(["cone", "ball"]), RandomEncoder().words(["ball", "Cone "])
    assert np.array_equal(one, two[::-1]) and one.dtype == np.float32
    assert not np.allclose(one, RandomEncoder(seed=1).words(["cone", "ball"]))
    assert np.allclose(np.linalg.norm(one, axis=1), 6.0)


def test_random_vectors_of_names_that_are_spelled_alike_are_near() -> None:
    market, marker, velvet = RandomEncoder().words(["market", "marker", "velvet"])
    assert cosine(market, marker) > 0.4 > abs(cosine(market, velvet)) + 0.1


def test_random_says_so_in_its_file() -> None:
    told = read_table(table_bytes(table_of("ball")), where="here").origin
    assert told.method == "random" and "random" in told.encoder


# ---- tables and folders


def test_a_table_comes_back_as_it_was_written() -> None:
    table = table_of("ball", "traffic light", "ball")
    again = read_table(table_bytes(table), where="here")
    assert again.names == table.names and again.origin == table.origin
    assert np.array_equal(again.vectors_NC, table.vectors_NC)
    assert np.array_equal(again.background_C, table.background_C)


@pytest.mark.parametrize("cut", [0, 5, 40, -1])
def test_a_damaged_table_is_told_in_one_line(cut: int) -> None:
    with pytest.raises(ValueError, match="here is no table of embeddings") as told:
        read_table(table_bytes(table_of("ball"))[:cut], where="here")
    assert "\n" not in str(told.value)


def test_a_table_whose_names_were_changed_is_no_table() -> None:
    with pytest.raises(ValueError, match="its names are not those"):
        read_table(table_bytes(table_of("ball", "cone")).replace(b"cone", b"cane"), where="here")


def test_another_class_list_is_one_line(tmp_path: Path) -> None:
    folder = Embeddings(str(tmp_path))
    folder.put_classes(table_of("ball", "cone"))
    assert folder.classes(classes("ball", "cone")).names == ("ball", "cone")
    with pytest.raises(ValueError, match="no embeddings of the 2 classes of seg@") as told:
        folder.classes(classes("cone", "ball"))
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="class 1 is 'box' and here 'cone'"):
        table_of("ball", "cone").check_classes(["ball", "box"], whose="seg")


def test_a_folder_has_one_origin(tmp_path: Path) -> None:
    folder = Embeddings(str(tmp_path))
    assert folder.origin() is None
    folder.put_classes(table_of("ball"))
    folder.put_classes(table_of("cone"))
    assert folder.origin() == RandomEncoder().origin
    folder.put_classes(table_of("box", seed=1))
    with pytest.raises(ValueError, match="two origins"):
        folder.origin()


def test_embeddings_of_another_origin_than_the_checkpoints_are_refused() -> None:
    begun = RandomEncoder().origin
    RandomEncoder().origin.check_same(begun, where="run")
    with pytest.raises(ValueError, match="run was trained with: seed 1 in place of 0"):
        RandomEncoder(seed=1).origin.check_same(begun, where="run")


def test_words_are_found_in_any_case_and_keep_their_rows() -> None:
    first = extended(None, ["Stop", "exit", "STOP "], RandomEncoder())
    assert first.names == ("exit", "stop") and first.rows(["Exit", "STOP", "taxi"]) == [0, 1, -1]
    more = extended(first, ["bar", "exit"], RandomEncoder())
    assert more.names == ("exit", "stop", "bar") and np.array_equal(more.vectors_NC[:2], first.vectors_NC)
    assert extended(None, [], RandomEncoder()).rows(["stop"]) == [-1]


# ---- the command's function


def said(_: str) -> None:
    pass


def test_a_store_is_embedded_once_and_what_is_new_is_added(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Darkness(), Grey()], photos=4, shard_size=2)
    out = str(tmp_path / "embeddings")
    done = embed(store, out, means=RANDOM, say=said)
    assert (done.lists, done.words, done.known) == (1, 0, 0) and done.origin.method == "random"
    label(store, [Squares(), Signs()])
    done = embed(store, out, means=RANDOM, say=said)
    assert (done.lists, done.words, done.known) == (1, 1, 0)
    folder = Embeddings(out)
    assert folder.classes(Squares().card).names == ("square",) and folder.words().names == ("nöise",)
    before = {path.name: path.read_bytes() for path in (tmp_path / "embeddings").iterdir()}
    assert embed(store, out, means=RANDOM, say=said).known == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "embeddings").iterdir()} == before


def test_words_of_a_store_are_those_of_its_committed_shards_each_once(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Signs()], photos=8, shard_size=3)
    seen: list[tuple[int, int]] = []
    assert words_of(store, Signs().card, progress=lambda *place: seen.append(place)) == ["nöise"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    store.withdraw(Signs().card.column, 0)
    assert words_of(store, Signs().card) == ["nöise"]


def test_a_store_without_names_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither classes nor words"):
        embed(small_store(tmp_path, [Grey()], photos=2), str(tmp_path / "out"), means=RANDOM, say=said)


def test_a_folder_of_another_kind_is_not_added_to(tmp_path: Path) -> None:
    store, out = small_store(tmp_path, [Darkness()], photos=2), str(tmp_path / "out")
    embed(store, out, means=RANDOM, say=said)
    for other, found in ((Means(method="random", seed=3), "seed 3"), (Means(method="clip"), "method 'clip'")):
        with pytest.raises(ValueError, match=f"asked is {found} in place of"):
            embed(store, out, means=other, say=said)
    label(store, [Squares()])
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    for other in (Means(method="random", seed=3), Means(method="clip", weights_folder=str(tmp_path))):
        with pytest.raises(ValueError, match="asked is "):
            embed(store, out, means=other, say=said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


def test_words_are_kept_as_they_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.embeddings import writing

    store, out = small_store(tmp_path, [Signs()], photos=2), str(tmp_path / "out")
    monkeypatch.setattr(writing, "AT_ONCE", 2)
    monkeypatch.setattr(writing, "words_of", lambda store, card: ["five", "four", "one", "three", "two"])
    lines: list[str] = []
    assert embed(store, out, means=RANDOM, say=lines.append).words == 5
    assert lines == ["2 words", "4 words", "5 words"]
    words = Embeddings(out).words()
    assert words.names == ("five", "four", "one", "three", "two")
    assert np.array_equal(words.vectors_NC, RandomEncoder().words(words.names))


def test_without_clip_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "empty"))
    store = small_store(tmp_path, [Darkness()], photos=2)
    with pytest.raises(
        ValueError,
        match="weights of clip-vit-large-patch14 are missing.*weights fetch --networks clip-vit-large-patch14`",
    ):
        embed(store, str(tmp_path / "out"), means=Means(), say=said)
    assert not (tmp_path / "out").exists()


# ---- CLIP

WORDS = [f"{first}{second}{third}" for first in "bdglmr" for second in "aeio" for third in "nst"]


def write_clip(folder: Path) -> None:
    """A small CLIP of seeded weights with a tokenizer of CLIP's kind whose whole words are ``WORDS`` and some more."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    from expert_zoo.networks.pretrained import save_seeded

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [word[0], word[1], f"{word[2]}</w>"]
        for merge in ((pieces[0], pieces[1]), (pieces[0] + pieces[1], pieces[2])):
            if "".join(merge) not in tokens:
                merges.append(merge)
                tokens.append("".join(merge))
    begin, end = "<|startoftext|>", "<|endoftext|>"
    ids = {token: place for place, token in enumerate([*tokens, begin, end])}
    model = models.BPE(ids, merges, unk_token=end, continuing_subword_prefix="", end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing((end, ids[end]), (begin, ids[begin]), True, False)
    tokenizer.add_special_tokens([begin, end])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = {"hidden_size": 80, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 16}
    ends = {
        "vocab_size": len(ids),
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }  # as OpenAI's files have them
    config = CLIPConfig(
        text_config=text | ends | {"max_position_embeddings": 16}, vision_config=vision, projection_dim=72
    )
    save_seeded(CLIPModel(config), folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    folder = WeightsFolder(root)
    folder.path(CLIP).mkdir()
    write_clip(folder.path(CLIP))
    folder.record(CLIP, source=SEEDED)
    return root


@pytest.fixture(scope="module")
def texts(weights: Path) -> ClipTexts:
    return ClipTexts(WeightsFolder(weights).path(CLIP), device=torch.device("cpu"))


def theirs(weights: Path, texts: list[str]) -> np.ndarray:
    """What transformers' own tokenizer and CLIP say, all texts in one batch and padded to the longest that there can be."""
    from transformers import CLIPModel, PreTrainedTokenizerFast

    folder = str(WeightsFolder(weights).path(CLIP))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<|endoftext|>")
    given = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = CLIPModel.from_pretrained(folder).eval().get_text_features(given["input_ids"], given["attention_mask"])
    return found.pooler_output.numpy()


def test_clip_says_what_transformers_own_pipeline_says(weights: Path, texts: ClipTexts) -> None:
    given = ["ban", "a photo of a dog", "Mas", "traffic light", "ünïcode 42!", "x", "ban", "word " * 40]
    found = texts.encode(given)
    assert np.abs(found - theirs(weights, given)).max() < 1e-5
    assert np.array_equal(found[0], found[6])
    assert np.abs(np.ptp(found, axis=0)).min() > 1e-4, "these weights tell texts apart"


def test_a_vector_does_not_depend_on_its_neighbours(texts: ClipTexts) -> None:
    given = ["ban", "a photo of a dog", "traffic light", "gis"]
    alone = np.concatenate([texts.encode([text]) for text in given])
    # Only the order in which a matrix product adds may change with the size of a batch.
    assert np.abs(texts.encode(given) - alone).max() < 1e-6 * np.abs(alone).max()


def test_the_basis_is_fitted_on_whole_words_and_kept(weights: Path, texts: ClipTexts, tmp_path: Path) -> None:
    assert texts.vocabulary(99) == sorted(WORDS) and texts.vocabulary(4) == sorted(WORDS)[::18]
    store, out = small_store(tmp_path, [Darkness(), Signs()], photos=4), str(tmp_path / "out")
    means = Means(weights_folder=str(weights), prompt="a photo of {}")
    lines: list[str] = []
    done = embed(store, out, means=means, say=lines.append)
    assert "72 whole words" in lines[0] and (done.lists, done.words) == (1, 1)
    folder = Embeddings(out)
    basis, table = folder.basis(), folder.classes(Darkness().card)
    assert basis is not None and 0.9 < basis.kept < 1 and "seeded" not in table.origin.encoder
    assert table.origin.method == "clip" and table.origin.prompt == "a photo of {}"
    expected = basis.reduce(theirs(weights, ["a photo of dark", "a photo of bright"]))
    assert np.abs(table.vectors_NC - expected).max() < 1e-4
    assert np.abs(folder.words().vectors_NC - basis.reduce(theirs(weights, ["nöise"]))).max() < 1e-4
    label(store, [Squares()])
    lines.clear()
    assert embed(store, out, means=means, say=lines.append).lists == 1 and lines == ["1 classes of squares"]


def test_nothing_is_loaded_where_nothing_is_new(weights: Path, tmp_path: Path) -> None:
    store, out = small_store(tmp_path, [Darkness()], photos=2), str(tmp_path / "out")
    embed(store, out, means=Means(weights_folder=str(weights)), say=said)
    done = embed(store, out, means=Means(weights_folder=str(tmp_path / "none")), say=said)
    assert (done.lists, done.words) == (0, 0)


def test_a_folder_is_gone_on_with_by_the_weights_it_was_begun_with(weights: Path, tmp_path: Path) -> None:
    folder = Embeddings(str(tmp_path))
    encoder = make_encoder(Means(weights_folder=str(weights)), folder, say=said)
    again = make_encoder(means_of(encoder.origin, weights_folder=str(weights)), folder, say=said)
    assert again.origin == encoder.origin and np.array_equal(again.words(["ban"]), encoder.words(["ban"]))
    basis = folder.basis()
    assert basis is not None
    folder.put_basis(fit(np.random.default_rng(0).normal(size=(99, 72)), encoder="another", fitted_on="noise"))
    with pytest.raises(ValueError, match="was begun with another"):
        make_encoder(Means(weights_folder=str(weights)), folder, say=said)


def test_a_tokenizer_of_another_network_is_refused(weights: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(WeightsFolder(weights).path(CLIP), tmp_path / "clip")
    config = tmp_path / "clip/config.json"
    config.write_text(config.read_text().replace('"eos_token_id": 2', '"eos_token_id": 7'))
    with pytest.raises(ValueError, match="the network expects 7"):
        ClipTexts(tmp_path / "clip", device=torch.device("cpu"))


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{name}", "{{}}", "{}{"])
def test_a_prompt_has_one_place_for_the_name(prompt: str, texts: ClipTexts, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one {} in the place of the name"):
        make_encoder(Means(prompt=prompt, weights_folder=str(weights)), Embeddings(str(tmp_path)), say=said)


# ---- basis


def test_the_basis_is_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    vectors_ND = rng.normal(size=(300, 80)) * np.linspace(3, 0.1, 80) + 5
    basis = fit(vectors_ND, encoder="test", fitted_on="300 vectors")
    centred = vectors_ND - vectors_ND.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.abs(basis.components_CD @ rows[:WIDTH].T) - np.eye(WIDTH)).max() < 1e-8
    assert basis.kept == pytest.approx((singular[:WIDTH] ** 2).sum() / (singular**2).sum())
    assert np.abs(basis.reduce(vectors_ND).mean(axis=0)).max() < 1e-5
    assert (np.take_along_axis(basis.components_CD, np.abs(basis.components_CD).argmax(axis=1)[:, None], 1) > 0).all()
    again = read_basis(basis_bytes(basis), where="here")
    assert np.array_equal(again.components_CD, basis.components_CD) and again.summary == basis.summary


def test_too_few_vectors_have_no_basis() -> None:
    with pytest.raises(ValueError, match="more than 64"):
        fit(np.ones((64, 80)), encoder="test", fitted_on="64 vectors")
    with pytest.raises(ValueError, match="no basis of embeddings"):
        read_basis(b"", where="here")


# ---- the released files


def write_released(folder: Path, labels: list[str]) -> np.ndarray:
    """Files in the form of the released ones, PCA included, as scikit-learn 0.24 pickles it."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(len(labels), 64)).astype(np.float32)
    torch.save({"labels": labels, "features": torch.from_numpy(features)}, folder / "coco_features.pt")
    torch.save(torch.arange(64.0), folder / "background_features.pt")
    module = types.ModuleType("sklearn.decomposition._pca")
    pca = type("PCA", (), {"__module__": module.__name__, "__qualname__": "PCA"})
    module.PCA = pca  # type: ignore[attr-defined]
    fitted: Any = pca()
    components = np.linalg.qr(rng.normal(size=(72, 72)))[0][:64]
    vars(fitted).update(
        mean_=rng.normal(size=72), components_=components, whiten=False, noise_variance_=np.float64(0.5)
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sklearn", "sklearn.decomposition", module.__name__):
            patch.setitem(sys.modules, name, module)
        (folder / "clip_pca.pkl").write_bytes(pickle.dumps(fitted))
    return features


def test_released_tables_serve_their_class_lists(weights: Path, tmp_path: Path) -> None:
    features = write_released(tmp_path, ["dark, gloomy", "bright ", "grey"])
    encoder = ReleasedEncoder(
        tmp_path, clip=lambda: ClipTexts(WeightsFolder(weights).path(CLIP), device=torch.device("cpu"))
    )
    assert np.array_equal(encoder.classes(["dark", "bright", "grey"], whose="seg"), features)
    assert np.array_equal(encoder.background(), np.arange(64)) and not encoder.origin.commercial_use
    with pytest.raises(ValueError, match="class 0 is 'bright', in .*coco_features.pt it is 'dark, gloomy'"):
        encoder.classes(["bright", "dark", "grey"], whose="seg")
    with pytest.raises(ValueError, match="1 of 3 classes are called as in"):
        encoder.classes(["one", "two", "grey"], whose="seg")
    with pytest.raises(ValueError, match="seg has 2 classes"):
        encoder.classes(["dark", "bright"], whose="seg")
    fitted = read_pca(tmp_path / "clip_pca.pkl")
    expected = (theirs(weights, ["ban"]) - fitted.mean_D) @ fitted.components_CD.T
    assert np.abs(encoder.words(["ban"]) - expected).max() < 1e-4


def test_released_tables_become_a_folder_without_clip_where_no_word_was_read(tmp_path: Path) -> None:
    write_released(tmp_path, ["dark", "bright"])
    store = small_store(tmp_path, [Darkness()], photos=2)
    means = Means(method="released", released=str(tmp_path), weights_folder=str(tmp_path / "none"))
    assert embed(store, str(tmp_path / "out"), means=means, say=said).lists == 1
    label(store, [Signs()])
    with pytest.raises(
        ValueError,
        match="weights of clip-vit-large-patch14 are missing.*weights fetch --networks clip-vit-large-patch14`",
    ):
        embed(store, str(tmp_path / "out"), means=means, say=said)


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ValueError, match="is refused: it wants to call"):
        read_pca(tmp_path / "evil.pkl")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"mean_": 1}), pickle.dumps([1, 2])])
def test_what_is_no_pca_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip_pca.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="clip_pca.pkl") as told:
        read_pca(tmp_path / "clip_pca.pkl")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [torch.ones(3), {"labels": ["a"], "features": torch.ones(2, 64)}, {"labels": 3}])
def test_what_are_no_features_is_told_in_one_line(content: Any, tmp_path: Path) -> None:
    torch.save(torch.ones(64), tmp_path / "background_features.pt")
    torch.save(content, tmp_path / "coco_features.pt")
    with pytest.raises(ValueError, match="coco_features.pt") as told:
        ReleasedEncoder(tmp_path, clip=lambda: pytest.fail("no word was asked for"))
    assert "\n" not in str(told.value)


# ---- on the device


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_every_id_has_its_own_vector_and_what_is_none_that_of_the_background(dtype: torch.dtype) -> None:
    table = table_of("ball", "cone", "box")
    nothing = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, -1)
    ids = torch.tensor([[[0, 1], [2, nothing]], [[nothing, 0], [3, 1]]]).to(dtype)
    found = Lookup(table)(ids)
    assert found.shape == (2, 2, 2, WIDTH)
    for place, value in np.ndenumerate(ids.to(torch.int64).numpy()):
        expected = table.vectors_NC[value] if value in (0, 1, 2) else table.background_C
        assert np.array_equal(found[place].numpy(), expected)


def test_a_lookup_is_in_no_checkpoint_and_counts_no_parameter() -> None:
    lookup = Lookup(table_of("ball"))
    assert not lookup.state_dict() and not list(lookup.parameters())
    assert Lookup(extended(None, [], RandomEncoder()))(torch.tensor([0, -1])).unique(dim=0).shape == (1, WIDTH)


def test_vectors_are_as_wide_as_prismers_stems() -> None:
    assert WIDTH == EMBEDDING


def test_the_words_file_is_one_that_others_can_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = Embeddings(str(tmp_path))
    folder.put_words(extended(None, ["stop"], RandomEncoder()))
    assert set(load_file(tmp_path / WORDS_FILE)) == {"vectors", "background"}
