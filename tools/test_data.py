"""Write ``tests/data`` from the original files: ``python -m tools.test_data FOLDER``. Its README names the sources."""

from __future__ import annotations

import base64
import csv
import json
import lzma
import shutil
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "tests" / "data"
WHOLE = (
    "xstest/xstest_prompts.csv",
    "llmbar/Natural.json",
    "harmbench/harmbench_behaviors_text_val.csv",
    "trustjudge/filtered_selected_answers_with_category.jsonl",
    "mt_bench/question.jsonl",
    "mt_bench/reference_answer_gpt-4.jsonl",
    "mt_bench/judge_prompts.jsonl",
)
COMPLETIONS = "xstest/xstest_v2_completions_{}.csv"
EVERY = {
    **{COMPLETIONS.format(name): 15 for name in ("gpt4", "llama2new", "llama2orig", "mistralinstruct")},
    **{f"pandalm/{name}testset-v1.json": 20 for name in ("", "gpt-3.5-turbo-", "pandalm-7b-")},
}
LICENCES = {
    **{name: f"{name}/LICENSE" for name in ("xstest", "llmbar", "harmbench", "pandalm", "trustjudge", "mt_bench")},
    "vocabs": "vocabs/LICENSE.tiktoken-rs",
    "chat_templates": "chat_templates/LICENSE.ik_llama.cpp",
}
TEMPLATES = (
    "Apertus-8B-Instruct",
    "Bielik-11B-v3.0-Instruct",
    "GigaChat3-10B-A1.8B",
    "MiMo-VL",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "Qwen-QwQ-32B",
    "Qwen-QwQ-32B.orig",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.orig",
    "deepseek-ai-DeepSeek-V3.1",
    "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-deepseek-r1",
    "llama-cpp-microsoft-Phi-4-mini-instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
    "unsloth-mistral-Devstral-Small-2507",
)
RANKS, PIECES = 30_000, 10_000


def main(source: Path) -> None:
    """Copy the small files, every n-th row of the large ones, and the first ranks of the vocabularies."""
    for name in (*WHOLE, *(f"chat_templates/{t}.jinja" for t in TEMPLATES)):
        place(name)
        shutil.copyfile(source / name, TARGET / name)
    for name, step in EVERY.items():
        place(name)
        if name.endswith(".json"):
            rows = json.loads((source / name).read_text(encoding="utf-8"))[::step]
            (TARGET / name).write_text(json.dumps(rows, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            with (source / name).open(encoding="utf-8", newline="") as file:
                lines = list(csv.reader(file))
            with (TARGET / name).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([lines[0], *lines[1::step]])
    for name in ("qwen", "o200k_base"):
        ranks = (source / "vocabs" / f"{name}.tiktoken").read_bytes().splitlines()[:RANKS]
        pack(f"vocabs/{name}.xz", [base64.b64decode(rank.split()[0]) for rank in ranks])
    pack("vocabs/mistral_v3.xz", sentencepieces(source / "vocabs" / "mistral_instruct_tokenizer_240323.model.v3"))
    for folder, name in LICENCES.items():
        shutil.copyfile(source / name, TARGET / folder / "LICENSE")
    total = sum(file.stat().st_size for file in TARGET.rglob("*") if file.is_file())
    print(f"{TARGET}: {total / 1e6:.2f} MB")


def sentencepieces(path: Path) -> list[bytes]:
    """The first pieces of a SentencePiece vocabulary, in order of rank, and the single characters at its end."""
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    extracted: Any = SentencePieceExtractor(str(path)).extract(None)
    vocab = extracted["vocab"]
    pieces: dict[str, int] = vocab if isinstance(vocab, dict) else {piece: k for k, (piece, _) in enumerate(vocab)}
    kept = [piece for piece in sorted(pieces, key=pieces.__getitem__) if pieces[piece] < PIECES or len(piece) == 1]
    return [piece.encode() for piece in kept]


def pack(name: str, pieces: list[bytes]) -> None:
    """Pieces one after the other, each behind a byte that holds its length."""
    place(name)
    raw = b"".join(bytes([len(piece)]) + piece for piece in pieces)
    (TARGET / name).write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))


def place(name: str) -> None:
    """Make the folder of a file."""
    (TARGET / name).parent.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
