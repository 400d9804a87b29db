//! `anneal bench train`: its figures, its table of ops, its memory by category.
//!
//! Unaware of how anything is measured.
use super::{Row, head, hidden, memory, row, seconds};
use crate::args::{BenchCheckpointing, BenchMethod, BenchStates, BenchTrain};
use crate::command::{Context, numerics};
use crate::exit::Error;
use anneal_stages::bench::train::{Method, OpTime, PROFILED, TrainBench, TrainMeasured, run};
use anneal_stages::bench::{BenchModel, median};
use anneal_stages::llama::Checkpointing;
use anneal_stages::train::recipe::OptimizerStates;
use anneal_stages::train_lora::MODULES;
use serde_json::{Map, Value, json};

impl BenchTrain {
    fn bench(&self, numerics: &'static str) -> Result<TrainBench, Error> {
        let method = match self.method {
            BenchMethod::Full => Method::Full,
            BenchMethod::Lora => Method::Lora {
                rank: self.rank as usize,
                target_modules: MODULES.iter().map(|module| (*module).to_owned()).collect(),
            },
        };
        Ok(TrainBench {
            model: BenchModel::find(&self.options.model)?,
            numerics,
            method,
            checkpointing: match self.checkpointing {
                BenchCheckpointing::None => Checkpointing::None,
                BenchCheckpointing::Selective => Checkpointing::Selective,
                BenchCheckpointing::Full => Checkpointing::Full,
            },
            full_layers: self.full_layers.map(|layers| layers as usize),
            optimizer_states: match self.optimizer_states {
                BenchStates::F32 => OptimizerStates::F32,
                BenchStates::Bf16 => OptimizerStates::Bf16,
            },
            batch_size: self.batch_size as usize,
            sequence_length: self.sequence_length as usize,
            labelled: self.labelled,
            warmup: self.warmup as usize,
            steps: self.steps as usize,
            seed: self.options.seed,
        })
    }

    fn method_name(&self) -> String {
        match self.method {
            BenchMethod::Full => "full".to_owned(),
            BenchMethod::Lora => format!("lora, rank {}", self.rank),
        }
    }

    fn checkpointing_name(&self) -> String {
        match (self.checkpointing, self.full_layers) {
            (BenchCheckpointing::None, _) => "none".to_owned(),
            (BenchCheckpointing::Selective, _) => "selective".to_owned(),
            (BenchCheckpointing::Full, None) => "full".to_owned(),
            (BenchCheckpointing::Full, Some(layers)) => format!("full for {layers} layers, then selective"),
        }
    }

    fn states_name(&self) -> &'static str {
        match self.optimizer_states {
            BenchStates::F32 => "f32",
            BenchStates::Bf16 => "bf16",
        }
    }
}

/// The figures, and the table of ops for people.
pub(super) fn trained(args: &BenchTrain, context: &Context) -> Result<(Vec<Row>, String), Error> {
    let numerics = numerics(args.options.device, context)?;
    let measured = run(&args.bench(numerics)?)?;
    let step = median(&measured.step_seconds);
    let tokens = u64::from(args.batch_size) * u64::from(args.sequence_length);
    let rate = tokens as f64 / step.max(1e-12);
    let (name, load) = (args.method_name(), measured.load_seconds);
    let batch = format!("{} x {} tokens, {} labelled", args.batch_size, args.sequence_length, measured.labelled_tokens);
    let mut rows = head(&args.options, numerics);
    rows.extend([
        hidden("device", measured.device.clone()),
        row("method", name.clone(), "method", name),
        row("checkpointing", args.checkpointing_name(), "checkpointing", args.checkpointing_name()),
        hidden("optimizer_states", args.states_name()),
        hidden("batch_size", args.batch_size),
        hidden("sequence_length", args.sequence_length),
        row("tokens_per_step", tokens, "batch", batch),
        hidden("labelled_tokens_per_step", measured.labelled_tokens),
        row("parameters", measured.parameters, "parameters", measured.parameters.to_string()),
        hidden("trainable_parameters", measured.trainable_parameters),
        row("load_seconds", load, "weights there after", seconds(load)),
        row("step_seconds", step, "step (median)", seconds(step)),
        hidden("all_step_seconds", measured.step_seconds.clone()),
        row("tokens_per_second", rate, "tokens a second", format!("{rate:.0}")),
    ]);
    rows.extend(utilisation(&measured, step, args.peak_tflops));
    rows.push(hidden("losses", measured.losses.clone()));
    rows.extend(by_category(&measured));
    rows.push(hidden("ops", ops(&measured)));
    rows.push(hidden("profiled_step_seconds", measured.profiled_seconds / PROFILED as f64));
    Ok((rows, table(&measured)))
}

/// FLOPs and what share of the device's peak they are.
fn utilisation(measured: &TrainMeasured, step: f64, peak: Option<f64>) -> Vec<Row> {
    let flops = &measured.flops;
    let rate = |flops: f64| flops / step.max(1e-12) / 1e12;
    let matrices = rate(flops.matrices);
    let peak = peak.filter(|peak| *peak > 0.0).or(measured.peak_tflops);
    let stated = format!("{}N, N = {}", flops.per_parameter, flops.matrix_parameters);
    let (mfu, shown) = match peak {
        Some(peak) => {
            let (mfu, all) = (matrices / peak, rate(flops.matrices + flops.attention) / peak);
            let shown =
                format!("{:.1} % of {peak} TFLOP/s ({stated}); {:.1} % with attention", 100.0 * mfu, 100.0 * all);
            (Some((mfu, all)), shown)
        }
        None => {
            let device = measured.device.as_deref().unwrap_or("this device");
            (None, format!("unknown: {device} has no known peak; give it with --peak-tflops"))
        }
    };
    vec![
        hidden("flops_per_token_in_n", flops.per_parameter),
        hidden("flops_n", flops.matrix_parameters),
        hidden(
            "flops_n_is",
            "numbers in the linear modules of all layers and in the head, whose share counts for labelled tokens only",
        ),
        hidden("flops_per_step", flops.matrices),
        hidden("attention_flops_per_step", flops.attention),
        row("tflops", matrices, "rate", format!("{matrices:.2} TFLOP/s")),
        hidden("peak_tflops", peak),
        row("mfu", mfu.map(|(mfu, _)| mfu), "MFU", shown),
        hidden("mfu_with_attention", mfu.map(|(_, all)| all)),
    ]
}

/// Peak memory, and what it was for.
fn by_category(measured: &TrainMeasured) -> Vec<Row> {
    let categories = &measured.memory.categories;
    let fields: Map<String, Value> = measured.memory.metrics().map(|(name, mib)| (name, json!(mib))).collect();
    let listed = categories.iter().map(|(category, mib)| format!("{category} {mib:.0}")).collect::<Vec<_>>().join(", ");
    vec![memory(measured.memory.peak_mib), row("memory", fields, "of it, MiB", listed)]
}

/// What an op took in a step: calls, milliseconds, share of all ops.
fn by_step(measured: &TrainMeasured) -> Vec<(&'static str, f64, f64, f64)> {
    let (all, steps) = (measured.ops.iter().map(|op| op.seconds).sum::<f64>().max(1e-12), PROFILED as f64);
    let one = |op: &OpTime| (op.op, op.calls as f64 / steps, 1e3 * op.seconds / steps, op.seconds / all);
    measured.ops.iter().map(one).collect()
}

fn ops(measured: &TrainMeasured) -> Value {
    let one = |(op, calls, ms, share): (&str, f64, f64, f64)| json!({ "op": op, "calls_per_step": calls, "ms_per_step": ms, "share": share });
    by_step(measured).into_iter().map(one).collect()
}

fn table(measured: &TrainMeasured) -> String {
    let ops = by_step(measured);
    let width = ops.iter().map(|(op, ..)| op.len()).max().unwrap_or(0).max("outside ops".len());
    let mut text = format!("\n{:<width$}  {:>12}  {:>10}  {:>6}\n", "op", "calls a step", "ms a step", "share");
    for (op, calls, ms, share) in &ops {
        text += &format!("{op:<width$}  {calls:>12.0}  {ms:>10.3}  {:>5.1}%\n", 100.0 * share);
    }
    let inside: f64 = ops.iter().map(|(_, _, ms, _)| ms).sum();
    let outside = (1e3 * measured.profiled_seconds / PROFILED as f64 - inside).max(0.0);
    text += &format!("{:<width$}  {:>12}  {outside:>10.3}\n", "outside ops", "");
    text += "Ops one after the other, the device waited for around each: slower than the steps above.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anneal_stages::bench::flops::StepFlops;
    use anneal_stages::llama::memory::MemoryPeak;

    fn measured() -> TrainMeasured {
        TrainMeasured {
            parameters: 10,
            trainable_parameters: 1,
            labelled_tokens: 4,
            load_seconds: 1.0,
            step_seconds: vec![2.0],
            losses: vec![1.0],
            device: Some("NVIDIA Other".to_owned()),
            peak_tflops: None,
            flops: StepFlops { per_parameter: 4, matrix_parameters: 100, matrices: 80e12, attention: 20e12 },
            ops: vec![
                OpTime { op: "linear.forward", calls: 14, seconds: 0.75 },
                OpTime { op: "adamw", calls: 2, seconds: 0.25 },
            ],
            profiled_seconds: 1.25,
            memory: MemoryPeak { categories: Vec::new(), peak_mib: None },
        }
    }

    fn value<'a>(rows: &'a [Row], key: &str) -> &'a Row {
        rows.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("{key}"))
    }

    #[test]
    fn mfu_is_the_rate_over_the_peak_and_absent_without_one() {
        let rows = utilisation(&measured(), 2.0, Some(400.0));
        assert_eq!(value(&rows, "tflops").value, json!(40.0));
        assert_eq!(
            (&value(&rows, "mfu").value, &value(&rows, "mfu_with_attention").value),
            (&json!(0.1), &json!(0.125))
        );
        assert_eq!(value(&rows, "mfu").shown, "10.0 % of 400 TFLOP/s (4N, N = 100); 12.5 % with attention");
        let rows = utilisation(&measured(), 2.0, None);
        assert_eq!(value(&rows, "mfu").value, Value::Null);
        assert_eq!(value(&rows, "mfu").shown, "unknown: NVIDIA Other has no known peak; give it with --peak-tflops");
    }

    #[test]
    fn the_table_tells_ops_by_step_and_what_lies_outside() {
        let text = table(&measured());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>().join(" "), "op calls a step ms a step share");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["linear.forward", "7", "375.000", "75.0%"]);
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["adamw", "1", "125.000", "25.0%"]);
        assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["outside", "ops", "125.000"]);
        assert_eq!(
            ops(&measured())[0],
            json!({"op": "linear.forward", "calls_per_step": 7.0, "ms_per_step": 375.0, "share": 0.75})
        );
    }
}
