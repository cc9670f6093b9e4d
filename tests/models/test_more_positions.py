"""Models with more positions, compared with tables and bases computed by hand."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, BertTokenizer, PreTrainedModel

from conftest import SMALL, SPECIAL
from wordmask.models.more_positions import with_more_positions
from wordmask.models.positions import position_embeddings, position_limits
from wordmask.models.probing import some_ids
from wordmask.utils.errors import InputError

CAUTION = "the model is good at long text only after training on it"
# For each type, its settings and the first position of a text.
TABLES = {
    "bert": ({}, 0),
    "roberta": ({"pad_token_id": 1}, 2),
    "distilbert": ({"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}, 0),
    "electra": ({"embedding_size": 8}, 0),
    "albert": ({"embedding_size": 8}, 0),
    "mpnet": ({}, 2),
    "deberta-v2": ({}, 0),
    "esm": ({"pad_token_id": 1, "mask_token_id": 4}, 2),
    "xlm": ({"emb_dim": 16, "n_layers": 1, "n_heads": 2}, 0),
    "nystromformer": ({}, 2),
    "mra": ({}, 2),
    "big_bird": ({}, 0),
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = {"hidden_size": 32, "num_hidden_layers": 2, **SPECIAL_IDS, "cls_token_id": 1, "sep_token_id": 2}
OTHERS = {
    "deberta-v2": {"relative_attention": True, "position_biased_input": False, "position_buckets": 8},
    "funnel": {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [1], "num_decoder_layers": 1},
    "reformer": {
        **{"attn_layers": ["local"], "attention_head_size": 8, "feed_forward_size": 16, "is_decoder": False},
        **{"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 8], "local_attn_chunk_length": 16},
    },
}


def model_of(model_type: str, **settings) -> PreTrainedModel:
    """A model with 70 positions, or 68 where a text begins at position 2 of them."""
    torch.manual_seed(0)
    given = {**({} if model_type == "funnel" else SMALL), **settings}
    return AutoModelForMaskedLM.from_config(CONFIG_MAPPING[model_type](vocab_size=90, **given)).eval()


def tokenizer_of(limit: int = 10**30) -> BertTokenizer:
    return BertTokenizer(vocab={token: number for number, token in enumerate(SPECIAL)}, model_max_length=limit)


def reloaded(model: PreTrainedModel, directory) -> PreTrainedModel:
    model.save_pretrained(directory)
    loaded, info = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


@torch.no_grad()
def logits(model: PreTrainedModel, length: int) -> torch.Tensor:
    return model(input_ids=some_ids(model, 1, length)).logits


@pytest.mark.parametrize("model_type", TABLES)
def test_a_table_is_repeated_and_short_text_looks_as_before(model_type, tmp_path, caplog):
    settings, first = TABLES[model_type]
    model, tokenizer = model_of(model_type, **settings), tokenizer_of()
    [table] = position_embeddings(model)
    old, limit = table.weight.detach().clone(), min(position_limits(model))
    assert limit == len(old) - first
    with caplog.at_level(logging.WARNING, "wordmask"):
        longer = with_more_positions(model, tokenizer, 150)
    assert caplog.messages[-1:] == [
        f"--max_position_embeddings: positions for 150 tokens instead of {limit}; the new ones repeat the old ones, "
        f"so {CAUTION}"
    ]
    [table] = position_embeddings(longer)
    rows = [*range(first), *(first + number % limit for number in range(150))]
    assert torch.equal(table.weight, old[rows])
    assert position_limits(longer) == [150] and tokenizer.model_max_length == 150
    assert torch.equal(logits(longer, 60), logits(model, 60))

    loaded = reloaded(longer, tmp_path)
    assert loaded.config.max_position_embeddings == model.config.max_position_embeddings + 150 - limit
    assert torch.equal(logits(loaded, 150), logits(longer, 150))
    assert torch.equal(logits(loaded, 60), logits(model, 60))


def test_a_text_of_repeated_positions_differs_from_a_shuffled_one():
    """Guards the test above: positions matter in such a model, so another table would be noticed."""
    model = model_of("bert")
    with torch.no_grad():
        before = logits(model, 20)
        position_embeddings(model)[0].weight[:20] = position_embeddings(model)[0].weight[:20].flip(0)
        assert not torch.allclose(logits(model, 20), before, atol=1e-4)


def test_every_table_of_a_model_is_repeated():
    """LUKE has one for entities, which counts from 0; I-BERT's is of a class of its own."""
    luke = model_of("luke", entity_vocab_size=10, entity_emb_size=8, pad_token_id=1)
    longer = with_more_positions(luke, tokenizer_of(), 150)
    for old, new, first in zip(position_embeddings(luke), position_embeddings(longer), (2, 0), strict=True):
        positions = len(old.weight) - first
        rows = [*range(first), *(first + number % positions for number in range(len(new.weight) - first))]
        assert len(new.weight) == 152 and torch.equal(new.weight, old.weight[rows])
    ibert = model_of("ibert", pad_token_id=1)
    longer = with_more_positions(ibert, tokenizer_of(), 150)
    assert torch.equal(logits(longer, 60), logits(ibert, 60)) and logits(longer, 150).shape[1] == 150


def test_a_table_that_is_computed_is_computed_again(caplog):
    """A RoFormer of this size from the start has the same one."""
    model, expected = (model_of("roformer", embedding_size=8, max_position_embeddings=size) for size in (70, 150))
    with caplog.at_level(logging.WARNING):
        longer = with_more_positions(model, tokenizer_of(), 150)
    assert [record.name for record in caplog.records] == ["wordmask.models.more_positions"], "no table of weights"
    assert "the new ones are computed like the old ones" in caplog.text
    found, right = (position_embeddings(one)[0].weight for one in (longer, expected))
    assert torch.equal(found, right)
    assert torch.equal(logits(longer, 60), logits(model, 60))


def test_half_precision_and_the_kind_of_attention_stay():
    model = model_of("bert").to(torch.bfloat16)
    model.set_attn_implementation("eager")
    model.config.dtype = torch.float32  # of the weights before
    longer = with_more_positions(model, tokenizer_of(), 150)
    assert {weight.dtype for weight in longer.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == longer.config._attn_implementation == "eager"


def test_sparse_attention_stays_after_short_text_was_tried():
    """BigBird switches to full attention for short text, and does not switch back."""
    model = model_of("big_bird", attention_type="block_sparse")
    longer = with_more_positions(model, tokenizer_of(), 150)
    assert longer.bert.attention_type == longer.config.attention_type == "block_sparse"


@pytest.mark.parametrize("positions", [70, 20])
def test_a_model_that_then_gives_other_logits_for_short_text_is_refused(positions):
    class Scaled(type(model_of("bert"))):
        """Its logits depend on the number of positions, as in a scaled attention."""

        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits * self.config.max_position_embeddings
            return output

    model = model_of("bert", max_position_embeddings=positions)
    model.__class__ = Scaled
    with pytest.raises(InputError, match="a Scaled gives other logits for short text; drop the flag"):
        with_more_positions(model, tokenizer_of(), 150)


def test_tied_weights_stay_tied():
    longer = with_more_positions(model_of("bert"), tokenizer_of(), 150)
    assert longer.get_input_embeddings().weight is longer.get_output_embeddings().weight


# RoPE


def frequencies(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name.split(".")[-1]: value for name, value in model.named_buffers() if name.endswith("inv_freq")}


def test_the_base_rises_in_layers_with_full_attention(tmp_path, caplog):
    """With 16 dimensions and text of twice the length: 160,000 * 2 ** (16 / 14) = 353,309."""
    model, tokenizer = model_of("modernbert", **MODERN, layer_types=["full_attention", "sliding_attention"]), None
    tokenizer = tokenizer_of(70)
    with caplog.at_level(logging.WARNING):
        longer = with_more_positions(model, tokenizer, 140)
    assert caplog.messages == [
        "--max_position_embeddings: positions for 140 tokens instead of 70; the base of RoPE is 353,309 instead of "
        f"160,000 in layers of full_attention, so the loss is higher at first, and {CAUTION}"
    ]
    assert tokenizer.model_max_length == 140
    loaded = reloaded(longer, tmp_path)
    assert loaded.config.max_position_embeddings == 140
    bases = {kind: settings["rope_theta"] for kind, settings in loaded.config.rope_parameters.items()}
    assert bases == {"full_attention": pytest.approx(160_000 * 2 ** (16 / 14)), "sliding_attention": 10_000}
    old, new, saved = map(frequencies, (model, longer, loaded))
    assert torch.equal(new["sliding_attention_inv_freq"], old["sliding_attention_inv_freq"])
    full = old["full_attention_inv_freq"], new["full_attention_inv_freq"]
    assert full[1][0] == full[0][0] == 1  # the highest frequency stays, and the lowest is half of what it was
    torch.testing.assert_close(full[1][-1], full[0][-1] / 2)
    assert all(torch.equal(saved[name], new[name]) for name in new)
    assert torch.equal(logits(loaded, 140), logits(longer, 140))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), longer.parameters(), strict=True))


def test_a_config_of_an_older_release_gets_the_new_base(tmp_path):
    """ModernBERT-base says global_rope_theta; what is saved must not say the old base anywhere."""
    model = model_of("modernbert", **MODERN, layer_types=["full_attention", "sliding_attention"])
    model.save_pretrained(tmp_path / "old")
    path = tmp_path / "old/config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["rope_parameters"], settings["layer_types"]
    settings |= {"global_rope_theta": 50_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}
    path.write_text(json.dumps(settings), encoding="utf-8")
    longer = with_more_positions(AutoModelForMaskedLM.from_pretrained(tmp_path / "old"), tokenizer_of(), 140)
    loaded = reloaded(longer, tmp_path / "new")
    bases = {kind: settings["rope_theta"] for kind, settings in loaded.config.rope_parameters.items()}
    assert bases == {"full_attention": pytest.approx(50_000 * 2 ** (16 / 14)), "sliding_attention": 10_000}


@pytest.mark.parametrize(
    "model_type, settings, base, dimensions",
    [
        ("eurobert", SPECIAL_IDS, 10_000, 8),
        ("esm", {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 4}, 10_000, 8),
        (
            "neomme",
            {
                **SPECIAL_IDS,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "embedding_rank": 8,
                "embedding_dim": 8,
                "num_hidden_layers": 6,
            },
            10**6,
            4,
        ),
    ],
)
def test_the_base_rises_wherever_a_configuration_has_it(model_type, settings, base, dimensions, tmp_path):
    """One for all layers, a setting of its own (ESM-2), and one for a quarter of the dimensions."""
    model = model_of(model_type, **settings)
    loaded = reloaded(with_more_positions(model, tokenizer_of(), 280), tmp_path)
    if model_type == "neomme":
        found = loaded.config.rope_parameters["full_attention"]["rope_theta"]
    else:
        found = getattr(loaded.config, "rope_parameters", vars(loaded.config))["rope_theta"]
    assert found == pytest.approx(base * 4 ** (dimensions / (dimensions - 2)))
    old, new = ({name: value.clone() for name, value in frequencies(one).items()} for one in (model, loaded))
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed and not any("sliding" in name for name in changed)
    for name in changed:
        torch.testing.assert_close(new[name][dimensions // 2 - 1], old[name][dimensions // 2 - 1] / 4)


@pytest.mark.parametrize("length", [150, 200])
def test_a_model_with_more_positions_than_its_tokenizer_says_stays_as_it_is(caplog, length):
    model, tokenizer = model_of("modernbert", **MODERN, max_position_embeddings=200), tokenizer_of(70)
    with caplog.at_level(logging.WARNING):
        assert with_more_positions(model, tokenizer, length) is model
    assert tokenizer.model_max_length == length
    assert caplog.messages == [
        f"--max_position_embeddings: the tokenizer allows {length} tokens instead of 70; the ModernBertForMaskedLM "
        "itself takes them and stays as it is"
    ]


def test_rope_that_is_scaled_in_another_way_is_refused():
    model = model_of(
        "eurobert", **SPECIAL_IDS, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    )
    with pytest.raises(InputError, match=r"scaled already \(rope_type linear\); .* give that with --config_name"):
        with_more_positions(model, tokenizer_of(), 150)


# Neither


def test_relative_positions_need_no_flag():
    for model_type in ("funnel", "deberta-v2"):
        model = model_of(model_type, **OTHERS[model_type])
        sentence = "positions without a limit; drop the flag, and give --max_seq_length 600"
        with pytest.raises(InputError, match=sentence):
            with_more_positions(model, tokenizer_of(), 600)


def test_relative_positions_keep_the_model_where_only_the_tokenizer_has_a_limit(caplog):
    model, tokenizer = model_of("deberta-v2", **OTHERS["deberta-v2"]), tokenizer_of(70)
    with caplog.at_level(logging.WARNING):
        assert with_more_positions(model, tokenizer, 150) is model
    assert tokenizer.model_max_length == 150 and "the tokenizer allows 150 tokens instead of 70" in caplog.text
    assert logits(model, 150).shape[1] == 150


def test_relative_positions_that_end_are_refused():
    class Limited(type(model_of("funnel", **OTHERS["funnel"]))):
        """Takes no longer text than its configuration says."""

        def forward(self, **inputs):
            assert inputs["input_ids"].shape[1] <= self.config.max_position_embeddings
            return super().forward(**inputs)

    model = model_of("funnel", **OTHERS["funnel"])
    model.config.max_position_embeddings = 70
    model.__class__ = Limited
    with pytest.raises(InputError, match="the positions of a Limited cannot become more; drop the flag"):
        with_more_positions(model, tokenizer_of(), 150)


def test_positions_that_cannot_become_more_are_refused():
    """Reformer's are a product of two tables."""
    model = model_of("reformer", **OTHERS["reformer"])
    with pytest.raises(InputError, match="the positions of a ReformerForMaskedLM cannot become more; drop the flag"):
        with_more_positions(model, tokenizer_of(), 150)


@pytest.mark.parametrize("settings", [{}, {"position_buckets": 8}])
def test_relative_positions_beside_a_table_stay_as_they_are(settings, tmp_path):
    """DeBERTa's follow from the number of positions by default: more places, or other borders of its buckets."""
    model = model_of("deberta-v2", relative_attention=True, pos_att_type=["c2p", "p2c"], **settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # numbers so large that each position matters
            if "rel_embeddings" in name or "position_embeddings" in name:
                weight.mul_(50)
    loaded = reloaded(with_more_positions(model, tokenizer_of(), 150), tmp_path)
    assert torch.equal(logits(loaded, 70), logits(model, 70)) and logits(loaded, 150).shape[1] == 150


@pytest.mark.parametrize("length", [1, 8, 68])
def test_no_more_than_the_model_has_is_refused(length):
    model = model_of("roberta", pad_token_id=1)
    with pytest.raises(InputError, match=f"^--max_position_embeddings: {length} tokens are not more than the 68 of"):
        with_more_positions(model, tokenizer_of(), length)
