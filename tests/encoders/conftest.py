import pytest

from encoders.transformer import TransformerEncoder

WORDS = "[PAD] [UNK] [CLS] [SEP] a dark space film romantic comedy the story of one two 星 球 大 战"


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A folder with a one-layer BERT of 32 numbers, random and the same each time."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    words = WORDS.split()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


# "auto" is bfloat16 on a CPU that multiplies it in hardware: no reference agrees with it to 1e-5.
@pytest.fixture
def tiny_encoder(tiny_bert):
    return TransformerEncoder(tiny_bert, device="cpu", dtype="float32")


@pytest.fixture
def two_threads():
    """Torch with two threads, as many as it has batches side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def minilm():
    return TransformerEncoder(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A folder with a two-layer Llama, a decoder, whose tokenizer pads on the left."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    words = {word: i for i, word in enumerate(dict.fromkeys(WORDS.split()))}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]", padding_side="left"
    )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
        LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder
