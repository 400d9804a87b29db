//! Parameters of a stage in a sweep: those that all its instances have, kept once, and what the sweep sets in one.
//!
//! A sweep of a hundred thousand cells would otherwise keep as many copies of nearly the same table. Unaware of what
//! the parameters mean.
use super::Node;
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

/// A parameter that a sweep sets, with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Swept {
    /// Index into [`Sweep::axes`](crate::sweep::Sweep::axes).
    pub axis: u32,
    /// Keys from the stage's parameters down to it.
    pub path: Vec<String>,
    /// Its values, by number.
    pub values: Vec<Value>,
}

thread_local! {
    /// The parameters that were asked for last on this thread: the next instance differs from them in a few values.
    static LAST: RefCell<Filled> = RefCell::default();
}

/// Parameters with what a cell sets put into them.
#[derive(Default)]
struct Filled {
    /// What they were made from,
    common: Option<Arc<Value>>,
    /// and the axes that are set in them.
    axes: Vec<u32>,
    value: Value,
}

impl Node {
    /// Its parameters, defaults filled in, paths absolute, and with what the sweep sets in it.
    pub fn resolved(&self) -> Cow<'_, Value> {
        if self.swept.is_empty() {
            return Cow::Borrowed(&self.params);
        }
        let mut params = Value::clone(&self.params);
        set(&mut params, &self.swept, &self.setting);
        Cow::Owned(params)
    }

    /// Shows its parameters, as [`Node::resolved`] gives them, without keeping them.
    pub(crate) fn with_params<R>(&self, see: impl FnOnce(&Value) -> R) -> R {
        with_params(&self.params, &self.swept, &self.setting, |params, _| see(params))
    }
}

/// Shows parameters with what a cell sets put into them, and says whether there was a place for all of it.
pub(crate) fn with_params<R>(
    common: &Arc<Value>,
    swept: &[Swept],
    setting: &[(u32, u32)],
    see: impl FnOnce(&Value, bool) -> R,
) -> R {
    if swept.is_empty() {
        return see(common, true);
    }
    LAST.with(|last| match last.try_borrow_mut() {
        Ok(mut last) => {
            let Filled { common: from, axes, value } = &mut *last;
            let now = || setting.iter().map(|(axis, _)| *axis).filter(|axis| swept.iter().any(|s| s.axis == *axis));
            if !from.as_ref().is_some_and(|from| Arc::ptr_eq(from, common)) || !now().eq(axes.iter().copied()) {
                *value = Value::clone(common);
                *from = Some(Arc::clone(common));
                *axes = now().collect();
            }
            let placed = set(value, swept, setting);
            see(value, placed)
        }
        // Asked for from inside `see`.
        Err(_) => {
            let mut value = Value::clone(common);
            let placed = set(&mut value, swept, setting);
            see(&value, placed)
        }
    })
}

/// Puts what a cell sets into parameters; says whether there is a place for all of it.
fn set(params: &mut Value, swept: &[Swept], setting: &[(u32, u32)]) -> bool {
    let mut placed = true;
    for (axis, value) in setting {
        if let Some(swept) = swept.iter().find(|swept| swept.axis == *axis) {
            placed &= put(params, &swept.path, &swept.values[*value as usize]);
        }
    }
    placed
}

/// Puts a value at a path of keys; says whether there is such a place.
fn put(params: &mut Value, path: &[String], value: &Value) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    let mut level = params;
    for key in above {
        let Some(next) = level.get_mut(key) else { return false };
        level = next;
    }
    match level.as_object_mut() {
        Some(map) => {
            match map.get_mut(last) {
                Some(present) => present.clone_from(value),
                None => drop(map.insert(last.clone(), value.clone())),
            }
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_cell_has_its_own_values_and_nothing_of_the_one_before() {
        let common = Arc::new(json!({ "rank": 8, "init": { "layers": 2 }, "list": [1] }));
        let other = Arc::new(json!({ "rank": 9 }));
        let axis = |axis, path: &[&str], values: &[Value]| Swept {
            axis,
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            values: values.to_vec(),
        };
        let swept = [
            axis(1, &["rank"], &[json!(1), json!(2)]),
            axis(3, &["init", "layers"], &[json!(3)]),
            axis(4, &["init", "heads"], &[json!(5)]),
            axis(6, &["no", "place"], &[json!(0)]),
        ];
        type Cell<'a> = (&'a [(u32, u32)], Value, bool);
        let cells: [Cell<'_>; 6] = [
            (&[(1, 1)], json!({ "rank": 2, "init": { "layers": 2 }, "list": [1] }), true),
            (&[(1, 0)], json!({ "rank": 1, "init": { "layers": 2 }, "list": [1] }), true),
            (&[(3, 0)], json!({ "rank": 8, "init": { "layers": 3 }, "list": [1] }), true),
            (&[(0, 7), (4, 0)], json!({ "rank": 8, "init": { "layers": 2, "heads": 5 }, "list": [1] }), true),
            (&[(0, 7)], json!({ "rank": 8, "init": { "layers": 2 }, "list": [1] }), true),
            (&[(6, 0)], json!({ "rank": 8, "init": { "layers": 2 }, "list": [1] }), false),
        ];
        for (setting, wanted, placed) in cells {
            with_params(&common, &swept, setting, |params, all| {
                assert_eq!((params, all), (&wanted, placed));
                // Also from inside, and of another stage.
                with_params(&other, &swept, &[(1, 0)], |params, _| assert_eq!(*params, json!({ "rank": 1 })));
            });
        }
        with_params(&other, &[], &[], |params, _| assert_eq!(*params, json!({ "rank": 9 })));
        with_params(&other, &swept, &[], |params, _| assert_eq!(*params, json!({ "rank": 9 })));
    }
}
