//! torch-bf16's errors against f32, as `fixtures/golden/bf16_error.py` wrote them, and whether the file is whole: a
//! machine without a GPU can tell that too.
//!
//! Unaware of how they are used (`ruler.rs`).
use crate::case::{cases, fixtures};
use crate::model;
use crate::ruler::{Findings, LIMIT, OUTPUTS, Ruler};
use anneal_ops::Cpu;
use anneal_stages::llama::adapter::Adapter;
use serde_json::Value;

/// The file.
pub(crate) fn yardsticks() -> Value {
    let path = fixtures().join("golden/bf16_error.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every number is an error that bf16 can have: above f32's, far below 1. Token counts aside.
fn assert_plausible(place: &str, value: &Value) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries.iter().filter(|(key, _)| *key != "ids" && *key != "greedy_equal") {
                // The difference of two means can be zero by luck: no bound is built on it.
                if key != "loss" {
                    assert_plausible(&format!("{place}/{key}"), value);
                }
            }
        }
        value => {
            let number = value.as_f64().unwrap();
            assert!((5e-4..0.3).contains(&number), "{place} is {number}");
        }
    }
}

#[test]
fn every_case_has_its_yardsticks() {
    let file = yardsticks();
    for case in cases() {
        let found = &file["cases"][case.name()];
        assert_plausible(&case.name(), found);
        let mut model = model(&Cpu::default(), &case, false);
        for name in &model.base_parameters().names {
            assert!(found["gradients"][name].is_number(), "{}: {name}", case.name());
        }
        model.attach(&Adapter::read(&case.dir.join("lora_init"), &case.config).unwrap()).unwrap();
        for name in &model.lora_parameters().names {
            assert!(found["lora"]["gradients"][name].is_number(), "{}: {name}", case.name());
        }
    }
    for (model, prompts) in [("stories260K", 5), ("smollm2", 2)] {
        let found = file[model].as_array().unwrap();
        assert_eq!(found.len(), prompts, "{model}");
        found.iter().for_each(|prompt| assert_plausible(model, prompt));
    }
}

#[test]
#[should_panic(expected = "b differs by 1.10e-5, limit 1.00e-5\na case: c differs by NaN")]
fn what_breaks_a_bound_fails_the_test_in_the_end() {
    let findings = Findings::default();
    let ruler = Ruler::new::<Cpu>(&findings, "a case", "/nowhere");
    ruler.check("a", 0.9e-5, LIMIT, OUTPUTS, 1.0);
    ruler.check("b", 1.1e-5, LIMIT, OUTPUTS, 1.0);
    ruler.check("c", f64::NAN, LIMIT, OUTPUTS, 1.0);
}
