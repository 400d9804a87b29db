//! `anneal answers`: samples as people read them with every model's answer beside the sample answer, and what one model
//! answers rightly and another does not.
//!
//! Unaware of how answers are made and of how pages look.
mod gather;
mod models;
mod quick;

use super::Context;
use crate::args::{Answers, Device, MetricChoice};
use crate::exit::{Error, Exit};
use crate::output;
use crate::render::answers::{self as page, Look, Said};
use crate::render::gains;
use anneal_engine::Failure;
use anneal_engine::run::Options;
use anneal_engine::slots::Slots;
use anneal_engine::stop::Stop;
use anneal_engine::store::Store;
use anneal_engine::worker::WorkerCommand;
use anneal_stages::metric::{Mark, Metric};
use anneal_stages::review::{Difference, Page, Samples};
use gather::{Answered, Gather};
use models::Model;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) fn run(args: &Answers, context: &Context) -> Result<Exit, Error> {
    let shown = show(args, context);
    if args.model.is_some() { shown.map_err(quick::without_a_manifest) } else { shown }
}

fn show(args: &Answers, context: &Context) -> Result<Exit, Error> {
    let pipeline = match (args.source(), &args.model, &args.data) {
        (Some(source), ..) => super::pipeline(&source, context)?,
        (None, Some(model), Some(data)) => quick::pipeline(args, model, data, context)?,
        // The grammar asks for one of the two.
        _ => return Err(Error::Usage(Failure::user("give a manifest, or --model and --data"))),
    };
    let mut all = models::all(&pipeline)?;
    if let (Some(model), [only]) = (&args.model, all.as_mut_slice()) {
        only.name = quick::name(model, args.adapter.as_deref());
    }
    let outputs = super::outputs(&args.outputs, &pipeline);
    let host = super::host(&pipeline);
    let alone = pipeline.numerics == Device::Cuda.numerics() && host.gpus.is_empty();
    let options = Options {
        outputs: outputs.clone(),
        jobs: args.jobs.map(|jobs| jobs as usize).or(alone.then_some(1)),
        only: Vec::new(),
        cells: Vec::new(),
        force: Vec::new(),
        retry: Vec::new(),
        host,
        slots: Slots::host_folder(),
        keep_going: true,
        record: false,
        tell_each_up_to: usize::MAX,
        worker: WorkerCommand::this_program()?,
        stop: Stop::on_signals()?,
    };
    let gather = Gather { pipeline: &pipeline, store: Store::open(&outputs)?, options, quiet: args.json };
    let look = Look::of_terminal(context.color);
    if args.diff.is_empty() {
        let chosen = models::chosen(&pipeline, &all, &args.only)?;
        pages(args, &gather, &chosen, &look)
    } else {
        difference(args, &gather, &all, &look)
    }
}

/// The samples that are asked for, each with every model's answer.
fn pages(args: &Answers, gather: &Gather<'_>, chosen: &[Model], look: &Look) -> Result<Exit, Error> {
    let Some(first) = chosen.first() else { return Err(Failure::bug("no model was chosen").into()) };
    let samples = samples(gather, first)?;
    let sids = wanted(args, &samples, first)?;
    let (same, others): (Vec<Model>, Vec<Model>) =
        chosen.iter().cloned().partition(|model| (model.dataset, model.split) == (first.dataset, first.split));
    for model in &others {
        output::say(&format!("warning: {} answers other data; look at it with --only", model.name));
    }
    let answered = gather.answers(&same, &sids.iter().copied().collect())?;
    let nothing = answered.iter().all(|answered| answered.rows.is_empty());
    if let Some(why) = answered.iter().find_map(|answered| answered.lacking.as_ref()).filter(|_| nothing) {
        return Err(Failure::user(format!("no model can answer yet: {why}"))
            .hint("what has to be trained first is not trained here; run it, then ask again")
            .into());
    }
    let metric = args.metric.map_or_else(|| models::metric(&same), MetricChoice::metric);
    if args.json {
        let questions: Vec<Value> =
            sids.iter().filter_map(|sid| as_json(*sid, &samples, &same, &answered, metric)).collect();
        let model = |(model, answered): (&Model, &Answered)| json!({ "name": model.name, "stage": gather.pipeline.node(model.id).name, "lacking": answered.lacking });
        let models: Vec<Value> = same.iter().zip(&answered).map(model).collect();
        output::print_json(&json!({ "metric": metric.name(), "models": models, "samples": questions }))?;
        return Ok(Exit::Ok);
    }
    let title = match (samples.is_tat_qa(), metric) {
        (true, Metric::Official) => "Answers, EM and F1 by the official TAT-QA metric",
        (true, Metric::TatLlm) => "Answers, EM and F1 by TAT-LLM's lenient metric",
        (false, _) => "Answers, EM and F1 of words",
    };
    let mut text = String::new();
    for sid in &sids {
        let Some(sample) = samples.page(*sid, first.form) else { continue };
        let said: Vec<Said<'_>> = same
            .iter()
            .zip(&answered)
            .map(|(model, answered)| {
                let row = answered.rows.get(sid);
                let mark = row.and_then(|row| mark(&samples, *sid, model, &row.answer, metric));
                Said { model: &model.name, answer: row.zip(mark), lacking: answered.lacking.as_deref() }
            })
            .collect();
        text += &page::page(&sample, first.split.name(), title, &said, look);
        text.push('\n');
    }
    output::print(text.trim_end_matches('\n'))?;
    Ok(Exit::Ok)
}

/// What one of two models gained over the other.
fn difference(args: &Answers, gather: &Gather<'_>, all: &[Model], look: &Look) -> Result<Exit, Error> {
    let [first, second] = args.diff.as_slice() else {
        let failure = Failure::user(format!("--diff takes two models, not {}", args.diff.len()));
        return Err(Error::Usage(failure.hint("as in `--diff base,lora`: what the second gained over the first")));
    };
    let first = models::find(gather.pipeline, all, first)?;
    let second = models::find(gather.pipeline, all, second)?;
    if first.id == second.id {
        return Err(Error::Usage(Failure::user(format!("--diff names {} twice", first.name))));
    }
    if (first.dataset, first.split) != (second.dataset, second.split) {
        let failure = Failure::user(format!("{} and {} answer different data", first.name, second.name));
        return Err(failure.hint("only answers to the same questions can be compared").into());
    }
    let own = gather.own(&[first, second])?;
    let mut rows = Vec::new();
    for (model, own) in [first, second].into_iter().zip(own) {
        let (stage, manifest) = (gather.pipeline.base(model.id), gather.pipeline.manifest.display());
        rows.push(own.ok_or_else(|| {
            Failure::user(format!("{} has not answered yet: stage `{stage}` has no result", model.name))
                .hint(format!("run `anneal run {manifest} --only {stage}` first, with the same --set and --device"))
        })?);
    }
    let samples = samples(gather, first)?;
    let metric = args.metric.map_or_else(|| models::metric([first, second]), MetricChoice::metric);
    let forms = [first.form, second.form];
    let found = Difference::new(&samples, metric, forms, (&first.name, &rows[0]), (&second.name, &rows[1]));
    let found = found.ok_or_else(|| {
        Failure::user(format!("{} and {} have no question in common", first.name, second.name))
            .hint("let both stages answer the same `sids`, or all")
    })?;
    if args.json {
        let mut value = json!(found);
        value["metric"] = json!(metric.name());
        output::print_json(&value)?;
    } else {
        output::print(&gains::text(&found, metric, samples.is_tat_qa().then_some(forms), look))?;
    }
    Ok(Exit::Ok)
}

/// The samples that a model was asked about.
fn samples(gather: &Gather<'_>, model: &Model) -> Result<Samples, Error> {
    let read = Samples::read(&gather.folder(model.dataset)?, model.split);
    let found = read.map_err(|error| Failure::user(error.to_string()))?;
    Ok(found.ok_or_else(|| Failure::user(format!("the data set has no `{}` split", model.split.name())))?)
}

/// The samples that are asked for, in the order of the command line: sids, then uids.
fn wanted(args: &Answers, samples: &Samples, model: &Model) -> Result<Vec<u64>, Error> {
    let mut sids = args.sids.clone();
    sids.iter().try_for_each(|sid| samples.require(*sid, model.split))?;
    for uid in &args.uids {
        if uid.is_empty() {
            let failure = Failure::user("--uid needs a uid, or the beginning of one");
            return Err(Error::Usage(failure.hint("`--sid 0` names the first sample")));
        }
        sids.push(samples.sid_of(uid)?);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = sids.iter().find(|sid| !seen.insert(**sid)) {
        let uid = samples.gold(*twice).map_or("", |(uid, _)| uid);
        let failure = Failure::user(format!("sample {twice} (uid {uid}) is asked for twice"));
        return Err(Error::Usage(failure.hint("name each sample once")));
    }
    Ok(sids)
}

fn mark(samples: &Samples, sid: u64, model: &Model, answer: &str, metric: Metric) -> Option<Mark> {
    let (uid, gold) = samples.gold(sid)?;
    Some(gold.mark(metric, model.form, uid, answer))
}

/// A sample with its answers.
fn as_json(sid: u64, samples: &Samples, models: &[Model], answered: &[Answered], metric: Metric) -> Option<Value> {
    let Page { uid, answer_type, answer_from, table, paragraphs, question, sample_answer, derivation, .. } =
        samples.page(sid, models.first()?.form)?;
    let answer = |(model, answered): (&Model, &Answered)| {
        let row = answered.rows.get(&sid)?;
        let mark = mark(samples, sid, model, &row.answer, metric)?;
        let said = mark.prediction.filter(|_| mark.formed == Some(true));
        Some(json!({
            "model": model.name,
            "answer": row.answer,
            "said": said.map(|said| json!([said.items, said.scale])),
            "em": mark.em,
            "f1": mark.f1,
            "scale": mark.scale,
            "formed": mark.formed,
            "cut_off": !row.ended,
            "new_tokens": row.new_tokens,
        }))
    };
    let answers: Vec<Value> = models.iter().zip(answered).filter_map(answer).collect();
    let paragraph = |(name, text): (String, String)| json!({ "name": name, "text": text });
    Some(json!({
        "sid": sid,
        "uid": uid,
        "answer_type": answer_type,
        "answer_from": answer_from,
        "table": table,
        "paragraphs": paragraphs.into_iter().map(paragraph).collect::<Vec<_>>(),
        "question": question,
        "sample_answer": sample_answer,
        "derivation": derivation,
        "answers": answers,
    }))
}
