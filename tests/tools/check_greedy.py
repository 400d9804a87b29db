#!/usr/bin/env python3
"""Compares greedy answers of `anneal run` with those that transformers generates in f32 from the same folder.

    anneal convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2        # or any Hugging Face folder with a chat template
    python tests/tools/check_greedy.py smollm2 --anneal target/release/anneal

Twenty prompts of all sorts (short, long, code, numbers, other scripts, several turns) are put into the model's chat
template by both programs: `anneal` through a manifest with instruction data and the stages `tokenize` and `infer`,
transformers through `apply_chat_template` and `generate` without sampling. Compared are the prompts' texts and ids, and
the answers: text, number of tokens, whether they ended by themselves. At an answer that differs, the script says how far
apart the two most likely tokens were where the texts part; below --margin, relative to the largest logit, f32 leaves the
choice open. Exits with 1 if anything differs otherwise, or if more than --allow answers differ for such a tie.
Needs torch, transformers, safetensors; takes a minute or two for a model of 135M parameters on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SYSTEM = "You are a careful assistant."
TABLE = "\n".join(f"| {year} | {1200 + 37 * i}.{i} | ({i * 11}) | {i * 3.5:.1f}% |" for i, year in enumerate(range(2001, 2024)))
STORY = "The ship left the harbour before dawn, and nobody on the quay could say where it was bound. " * 12
PROMPTS = [
    "What is the capital of France? Answer in a whole paragraph.",
    "Explain to a child why the sky is blue.",
    "Write a Python function that reverses the words of a sentence, and explain each line.",
    "List ten uses of a paper clip.",
    "Net revenue was $1,496.5 million in 2019 and $1,202.9 million in 2018. By how many percent did it grow?",
    "Erzähle eine kurze Geschichte über einen Bären und eine Gans.",
    "¿Cuáles son las diferencias entre un río y un lago?",
    "把这句话翻译成英文：今天天气很好，我们去公园散步吧。",
    "Summarise this:\n\n" + STORY,
    "Here is a table of year, revenue, loss and margin.\n\n" + TABLE + "\n\nDescribe its trend.",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\nWhat does this compute, and how slowly?",
    "Give me the steps to bake bread.   Mind   the   blanks.\n\n\n\tAnd the tab.",
    "Correct the grammar: 'she dont know nothing about them things what he done'",
    "Write a haiku about autumn, then explain its form 🍂🍁.",
    "x",
    "Continue: 1, 1, 2, 3, 5, 8, 13,",
    "What are the pros and cons of remote work? Use bullet points.",
    "<b>HTML</b> & \"quotes\" \\ back\\slashes: what do &amp; and %20 mean?",
]
# A system prompt of its own, and several turns.
CONVERSATIONS = [
    [("system", "You speak like a pirate."), ("user", "How do I sharpen a knife?")],
    [("user", "Name a planet."), ("assistant", "Saturn."), ("user", "Tell me three facts about it.")],
]


def conversations() -> list:
    plain = [[("system", SYSTEM), ("user", prompt)] for prompt in PROMPTS]
    # Where a row has no system prompt the manifest's stands in.
    rest = [turns if turns[0][0] == "system" else [("system", SYSTEM), *turns] for turns in CONVERSATIONS]
    return [[{"role": role, "content": content} for role, content in turns] for turns in plain + rest]


def run_anneal(anneal: Path, model: Path, tokens: int, work: Path) -> tuple:
    """Runs the manifest in `work`; returns the answers and the tokens artifact's ids and lengths."""
    rows = [{"messages": [*turns, {"role": "assistant", "content": "-"}]} for turns in conversations()]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "greedy.toml").write_text(f"""
[experiment]
name = "greedy"

[stages.base]
kind = "load"
model = {json.dumps(str(model.resolve()))}

[stages.rows]
kind = "load"
dataset = {{ format = "instruct", eval = "rows.jsonl" }}

[stages.tokens]
kind = "tokenize"
inputs = {{ model = "base", dataset = "rows" }}
system = {json.dumps(SYSTEM)}

[stages.answers]
kind = "infer"
inputs = {{ model = "base", tokens = "tokens" }}
max_new_tokens = {tokens}
""", encoding="utf-8")
    command = [anneal.resolve(), "run", "greedy.toml", "--root", ".", "--outputs", "outputs"]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    latest = work / "outputs" / "latest"
    folder = lambda stage: next(path for path in [latest / stage, latest / "greedy" / stage] if path.exists())
    lines = (folder("answers") / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], load_file(folder("tokens") / "eval.tokens.safetensors")


def first_difference(ours: list, theirs: list) -> int:
    pairs = zip(ours, theirs)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the Hugging Face folder")
    parser.add_argument("--anneal", type=Path, default=Path("target/release/anneal"), help="the program [default: %(default)s]")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer [default: 64]")
    parser.add_argument("--margin", type=float, default=1e-4, help="a tie, relative to the largest logit [default: 1e-4]")
    parser.add_argument("--allow", type=int, default=0, help="answers that may differ for a tie [default: 0]")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        answers, tokens = run_anneal(args.anneal, args.model, args.tokens, Path(work))
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    ends = model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends])}
    asked = conversations()
    if [answer["sid"] for answer in answers] != list(range(len(asked))):
        print(f"answers to {[answer['sid'] for answer in answers]}, expected {len(asked)} in order")
        return 1

    equal, ties, wrong, generated = 0, 0, 0, 0
    for number, (turns, answer) in enumerate(zip(asked, answers)):
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = int(tokens["cu_seqlens"][number])
        ours = tokens["ids"][start:start + int(tokens["prompt_lengths"][number])].tolist()
        if text != answer["prompt"] or ids != ours:
            print(f"{number}: the prompts differ at token {first_difference(ours, ids)} of {len(ids)}")
            wrong += 1
            continue
        with torch.no_grad():
            output = model.generate(torch.tensor([ids]), max_new_tokens=args.tokens, do_sample=False, use_cache=True,
                                    pad_token_id=tokenizer.pad_token_id)[0, len(ids):].tolist()
        ended = bool(output) and output[-1] in ends
        new = output[:-1] if ended else output
        generated += len(new)
        expected = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if (expected, len(new), ended) == (answer["answer"], answer["new_tokens"], answer["ended"]):
            equal += 1
            continue
        # Ids of answers are not kept: those of the text are, except in rare cases, the generated ones.
        again = tokenizer(answer["answer"], add_special_tokens=False)["input_ids"]
        at = first_difference(again, new)
        with torch.no_grad():
            logits = model(torch.tensor([ids + new[:at]])).logits[0, -1]
        top = torch.topk(logits, 2).values
        margin = float((top[0] - top[1]) / logits.abs().max())
        tie = margin < args.margin
        ties, wrong = ties + tie, wrong + (not tie)
        print(f"{number}: the answers part at token {at}, where the two most likely tokens are {margin:.1e} apart: "
              f"{'a tie' if tie else 'NO TIE'}\n  anneal       {answer['answer'][:200]!r}\n  transformers {expected[:200]!r}")
    print(f"prompts: {len(asked)}; answers equal: {equal}, differing for a tie: {ties}, otherwise: {wrong}; "
          f"{generated} tokens generated")
    return 0 if wrong == 0 and ties <= args.allow else 1


if __name__ == "__main__":
    sys.exit(main())
