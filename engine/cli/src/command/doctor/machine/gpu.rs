//! The GPU, for builds that compute on one: driver, cards, libraries, and the next step for each that is not as runs
//! need it. Unaware of how facts are found.
use crate::command::doctor::{Finding, Level};
use anneal_stages::gpu::{Card, Driver, Survey};

/// The oldest CUDA that a driver may support: kernels are built with 12 or later.
const OLDEST_CUDA: i32 = 12;
/// The oldest compute capability: the first with bf16 on tensor cores (Ampere).
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);
/// Memory in use on a card that nobody uses stays below this, MiB.
const IDLE_MIB: f64 = 1024.0;

pub(super) fn look() -> Vec<Finding> {
    anneal_stages::gpu::survey().as_ref().map(judge).unwrap_or_default()
}

fn judge(survey: &Survey) -> Vec<Finding> {
    let mut findings = vec![driver(&survey.driver)];
    findings.extend(survey.cards.iter().enumerate().map(|(index, card)| judge_card(index, card)));
    findings.extend(visible(survey));
    findings.push(usable(survey));
    findings
}

fn driver(driver: &Result<Driver, String>) -> Finding {
    let Driver { version, cuda } = match driver {
        Ok(driver) => driver,
        Err(why) => {
            let next = "on a machine with an NVIDIA GPU, check with `nvidia-smi` that its driver works";
            return Finding::missing("driver", format!("no NVIDIA driver that answers: {why}"), next);
        }
    };
    match cuda {
        Some((major, minor)) if *major < OLDEST_CUDA => Finding::problem(
            "driver",
            format!("{version} is too old: it supports CUDA {major}.{minor}, and runs need {OLDEST_CUDA}.0 or later"),
            "update the NVIDIA driver to 525 or later (580 or later for a build with CUDA 13), or use --device cpu",
        ),
        Some((major, minor)) => Finding::fine("driver", format!("{version}, supports CUDA up to {major}.{minor}")),
        None => Finding::fine("driver", version.clone()),
    }
}

fn judge_card(index: usize, card: &Card) -> Finding {
    let gib = |mib: f64| mib / 1024.0;
    let mut text = format!("{index}: {}", card.name);
    let old = card.capability.is_some_and(|capability| capability < OLDEST_CAPABILITY);
    if let Some((major, minor)) = card.capability {
        text += &format!(", compute capability {major}.{minor}");
        text += if old { " (too old: bf16 on tensor cores needs 8.0)" } else { "" };
    }
    if let (Some(used), Some(total)) = (card.used_mib, card.total_mib) {
        text += &format!(", {:.1} GiB free of {:.1} GiB", gib(total - used), gib(total));
    }
    text += if card.chosen { "; runs use it" } else { "; not used" };
    if old {
        let next = "name another GPU in CUDA_VISIBLE_DEVICES, or use --device cpu";
        return if card.chosen { Finding::problem("gpu", text, next) } else { Finding::fine("gpu", text) };
    }
    let programs = card.programs.unwrap_or(0);
    let used = card.used_mib.unwrap_or(0.0);
    // Some systems hide the programs of other users or containers; memory tells all the same.
    if card.chosen && (programs > 0 || used > IDLE_MIB) {
        let who = match programs {
            0 => "other programs".to_owned(),
            number => crate::render::progress::count(number as usize, "other program"),
        };
        text += &format!("; {:.1} GiB are taken by {who}", gib(used));
        let next = "wait for it or end it (`nvidia-smi` lists programs), or name a free GPU in CUDA_VISIBLE_DEVICES";
        return Finding::missing("gpu", text, next);
    }
    Finding::fine("gpu", text)
}

/// A list that shows none of the cards there are.
fn visible(survey: &Survey) -> Option<Finding> {
    let list = survey.visible.as_ref()?;
    if survey.cards.is_empty() || survey.cards.iter().any(|card| card.chosen) || list.starts_with("MIG-") {
        return None;
    }
    let names = match survey.cards.len() {
        1 => "0".to_owned(),
        cards => format!("one of 0 to {}", cards - 1),
    };
    Some(Finding::problem(
        "gpu",
        format!("CUDA_VISIBLE_DEVICES is `{list}`, which names none of the GPUs here"),
        format!("set it to {names}, or unset it"),
    ))
}

fn usable(survey: &Survey) -> Finding {
    let Err(why) = &survey.usable else {
        return Finding::fine("cuda", "cuBLAS and cuBLASLt were found, and the kernels load");
    };
    // Without a card there is nothing to mend: the CPU is as good as ever.
    let level = if survey.cards.is_empty() { Level::Missing } else { Level::Problem };
    let next = match level {
        Level::Missing => "use --device cpu, or a machine with an NVIDIA GPU",
        _ => "do what the line above says; until then use --device cpu",
    };
    Finding { level, ..Finding::problem("cuda", why.clone(), next) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(capability: (i32, i32), used: f64, programs: u32, chosen: bool) -> Card {
        let (used_mib, total_mib) = (Some(used), Some(81559.0));
        let (capability, programs) = (Some(capability), Some(programs));
        Card { name: "Fake 9000".to_owned(), capability, used_mib, total_mib, programs, chosen }
    }

    fn machine(cuda: (i32, i32), cards: Vec<Card>) -> Survey {
        let driver = Ok(Driver { version: "580.82".to_owned(), cuda: Some(cuda) });
        Survey { driver, cards, visible: None, usable: Ok(()) }
    }

    fn told(survey: &Survey) -> String {
        let line = |f: &Finding| {
            let next = f.next.as_ref().map(|next| format!("\n  -> {next}")).unwrap_or_default();
            format!("{:?} {}: {}{next}", f.level, f.topic, f.text)
        };
        judge(survey).iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_machine_as_it_should_be() {
        insta::assert_snapshot!(told(&machine((13, 0), vec![card((9, 0), 500.0, 0, true)])), @r"
        Fine driver: 580.82, supports CUDA up to 13.0
        Fine gpu: 0: Fake 9000, compute capability 9.0, 79.2 GiB free of 79.6 GiB; runs use it
        Fine cuda: cuBLAS and cuBLASLt were found, and the kernels load
        ");
    }

    #[test]
    fn a_machine_without_a_gpu_misses_it_and_has_no_problem() {
        let survey = Survey {
            driver: Err("a libloading error occurred".to_owned()),
            cards: Vec::new(),
            visible: Some("0".to_owned()),
            usable: Err("cannot use the GPU: the NVIDIA driver (libcuda.so.1) is not installed here".to_owned()),
        };
        insta::assert_snapshot!(told(&survey), @r"
        Missing driver: no NVIDIA driver that answers: a libloading error occurred
          -> on a machine with an NVIDIA GPU, check with `nvidia-smi` that its driver works
        Missing cuda: cannot use the GPU: the NVIDIA driver (libcuda.so.1) is not installed here
          -> use --device cpu, or a machine with an NVIDIA GPU
        ");
    }

    #[test]
    fn an_old_driver_an_old_card_a_busy_card_and_a_wrong_list_each_have_a_next_step() {
        let cards = vec![card((7, 5), 0.0, 0, true), card((7, 0), 0.0, 0, false)];
        insta::assert_snapshot!(told(&machine((11, 8), cards)), @r"
        Problem driver: 580.82 is too old: it supports CUDA 11.8, and runs need 12.0 or later
          -> update the NVIDIA driver to 525 or later (580 or later for a build with CUDA 13), or use --device cpu
        Problem gpu: 0: Fake 9000, compute capability 7.5 (too old: bf16 on tensor cores needs 8.0), 79.6 GiB free of 79.6 GiB; runs use it
          -> name another GPU in CUDA_VISIBLE_DEVICES, or use --device cpu
        Fine gpu: 1: Fake 9000, compute capability 7.0 (too old: bf16 on tensor cores needs 8.0), 79.6 GiB free of 79.6 GiB; not used
        Fine cuda: cuBLAS and cuBLASLt were found, and the kernels load
        ");
        let busy = |used, programs| judge_card(0, &card((8, 0), used, programs, true));
        insta::assert_snapshot!(busy(61440.0, 2).text, @"0: Fake 9000, compute capability 8.0, 19.6 GiB free of 79.6 GiB; runs use it; 60.0 GiB are taken by 2 other programs");
        assert!(busy(2048.0, 0).text.ends_with("; 2.0 GiB are taken by other programs"));
        assert!(busy(400.0, 1).text.ends_with("; 0.4 GiB are taken by 1 other program"));
        assert_eq!((busy(2048.0, 0).level, busy(400.0, 0).level), (Level::Missing, Level::Fine));
        let mut survey = machine((12, 4), vec![card((8, 0), 0.0, 0, false)]);
        (survey.visible, survey.usable) = (Some("9".to_owned()), Err("cannot use the GPU: no device".to_owned()));
        insta::assert_snapshot!(told(&survey), @r"
        Fine driver: 580.82, supports CUDA up to 12.4
        Fine gpu: 0: Fake 9000, compute capability 8.0, 79.6 GiB free of 79.6 GiB; not used
        Problem gpu: CUDA_VISIBLE_DEVICES is `9`, which names none of the GPUs here
          -> set it to 0, or unset it
        Problem cuda: cannot use the GPU: no device
          -> do what the line above says; until then use --device cpu
        ");
    }
}
