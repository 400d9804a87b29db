//! `anneal bench generate`: its figures and its table of ops.
//!
//! Unaware of how anything is measured.
use super::{Row, head, hidden, memory, row, seconds};
use crate::args::BenchGenerate;
use crate::command::{Context, numerics};
use crate::exit::Error;
use anneal_stages::bench::generate::{GenerateBench, GenerateMeasured};
use anneal_stages::bench::questions::{QuestionsBench, QuestionsMeasured};
use anneal_stages::bench::subject::Subject;
use anneal_stages::bench::{BenchModel, generate, median, questions};
use serde_json::{Value, json};

/// The figures, and the table of ops for people.
pub(super) fn generated(args: &BenchGenerate, context: &Context) -> Result<(Vec<Row>, String), Error> {
    let numerics = numerics(args.options.device, context)?;
    let subject = Subject {
        model: BenchModel::find(&args.options.model)?,
        numerics,
        adapter_rank: args.adapter_rank as usize,
        seed: args.options.seed,
    };
    let mut rows = head(&args.options, numerics);
    let adapter = match args.adapter_rank {
        0 => hidden("adapter_rank", 0),
        rank => row("adapter_rank", rank, "adapter", format!("rank {rank}, beside the weights")),
    };
    rows.extend([adapter, row("sequences", args.sequences, "sequences", args.sequences.to_string())]);
    let Some(count) = args.questions else {
        let measured = generate::run(&GenerateBench {
            subject,
            sequences: args.sequences as usize,
            prompt_tokens: args.prompt_tokens as usize,
            new_tokens: args.new_tokens as usize,
            warmup: 1,
            repeats: args.repeats as usize,
        })?;
        rows.extend(prompts(args, &measured));
        return Ok((rows, table(&measured)));
    };
    let measured = questions::run(&QuestionsBench {
        subject,
        questions: count as usize,
        each_context: args.questions_per_context as usize,
        context_tokens: args.context_tokens as usize,
        question_tokens: args.question_tokens as usize,
        new_tokens: args.new_tokens as usize,
        sequences: args.sequences as usize,
        repeats: args.repeats as usize,
    })?;
    rows.extend(answers(args, count, &measured));
    Ok((rows, String::new()))
}

fn prompts(args: &BenchGenerate, measured: &GenerateMeasured) -> Vec<Row> {
    let prefill = median(&measured.prefill_seconds);
    let decode = median(&measured.decode_tokens_per_second);
    let rate = f64::from(args.sequences) * f64::from(args.prompt_tokens) / prefill.max(1e-12);
    let ops = |op: &generate::OpTime| json!({ "op": op.op, "calls": op.calls, "ms": 1e3 * op.seconds });
    vec![
        row("prompt_tokens", args.prompt_tokens, "prompt", format!("{} tokens", args.prompt_tokens)),
        row("new_tokens", args.new_tokens, "decoded", format!("{} tokens", args.new_tokens)),
        hidden("load_seconds", measured.load_seconds),
        row("prefill_seconds", prefill, "prefill (median)", format!("{}, {rate:.0} tokens/s", seconds(prefill))),
        hidden("prefill_tokens_per_second", rate),
        hidden("all_prefill_seconds", measured.prefill_seconds.clone()),
        row("decode_tokens_per_second", decode, "decoding (median)", format!("{decode:.1} tokens/s")),
        hidden("all_decode_tokens_per_second", measured.decode_tokens_per_second.clone()),
        hidden("ops", measured.ops.iter().map(ops).collect::<Value>()),
        memory(measured.peak_mib),
    ]
}

fn answers(args: &BenchGenerate, count: u32, measured: &QuestionsMeasured) -> Vec<Row> {
    let time = median(&measured.seconds);
    let computed = measured.prompt_tokens - measured.reused_tokens;
    let each = format!("{count}, {} of a context", args.questions_per_context);
    let prompt = format!("{} tokens, {computed} of them computed", measured.prompt_tokens);
    let rate = f64::from(count) / time.max(1e-12);
    vec![
        row("questions", count, "questions", each),
        hidden("questions_per_context", args.questions_per_context),
        hidden("context_tokens", args.context_tokens),
        hidden("question_tokens", args.question_tokens),
        row("prompt_tokens", measured.prompt_tokens, "prompts", prompt),
        hidden("reused_tokens", measured.reused_tokens),
        row("answer_tokens", measured.answer_tokens, "answers", format!("{} tokens", measured.answer_tokens)),
        hidden("load_seconds", measured.load_seconds),
        row("seconds", time, "all (median)", format!("{}, {rate:.1} questions a second", seconds(time))),
        hidden("all_seconds", measured.seconds.clone()),
        memory(measured.peak_mib),
    ]
}

fn table(measured: &GenerateMeasured) -> String {
    let width = measured.ops.iter().map(|op| op.op.len()).max().unwrap_or(0).max("op".len());
    let all = measured.ops.iter().map(|op| op.seconds).sum::<f64>().max(1e-12);
    let mut text = format!("\n{:<width$}  {:>8}  {:>10}  {:>6}\n", "op", "calls", "ms", "share");
    for op in &measured.ops {
        let share = 100.0 * op.seconds / all;
        text += &format!("{:<width$}  {:>8}  {:>10.3}  {share:>5.1}%\n", op.op, op.calls, 1e3 * op.seconds);
    }
    text += "One more round, prefill and decoding, op after op, the device waited for around each.\n";
    text
}
