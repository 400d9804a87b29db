//! Learning rate by step, as transformers' schedulers compute it (optimization.py, 4.57).
//!
//! Unaware of optimizers.

anneal_engine::choices! {
    /// How the learning rate moves after warm-up.
    pub enum ScheduleKind {
        /// Falls in a straight line to zero at the last step.
        Linear = "linear",
        /// Falls along half a cosine to zero at the last step.
        Cosine = "cosine",
        /// Stays at its peak.
        Constant = "constant",
    }
}

/// A schedule with its lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// Learning rate at its peak.
    pub peak: f64,
    /// Steps over which it rises from zero; the first step then has a rate of zero.
    pub warmup_steps: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
}

impl Schedule {
    /// Learning rate of a step, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let (step, warmup, total) = (step as f64, self.warmup_steps as f64, self.total_steps as f64);
        if step < warmup {
            return self.peak * step / warmup.max(1.0);
        }
        let after = (total - warmup).max(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => ((total - step) / after).max(0.0),
                ScheduleKind::Cosine => {
                    let progress = (step - warmup) / after;
                    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup_steps: u64) -> Vec<f64> {
        let schedule = Schedule { kind, peak: 1.0, warmup_steps, total_steps: 6 };
        (0..6).map(|step| (schedule.learning_rate(step) * 1e6).round() / 1e6).collect()
    }

    /// Values from transformers' get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup.
    #[test]
    fn rates_are_those_of_transformers() {
        assert_eq!(rates(ScheduleKind::Linear, 2), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ScheduleKind::Cosine, 2), [0.0, 0.5, 1.0, 0.853553, 0.5, 0.146447]);
        assert_eq!(rates(ScheduleKind::Constant, 2), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(ScheduleKind::Linear, 0), [1.0, 0.833333, 0.666667, 0.5, 0.333333, 0.166667]);
    }
}
