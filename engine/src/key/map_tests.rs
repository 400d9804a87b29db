//! Keys of parameters whose names a person chooses: every leaf matters, the order of a list too, that of a map does not.
use super::{Digest, action_key};
use crate::manifest::tests::fake::{Fake, MANIFEST, load_text};
use crate::{Param, Shape};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A map of maps of lists of texts.
type Values = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn shape() -> Shape {
    let map = |inner| Shape::Map(Box::new(inner));
    map(map(Shape::List(Box::new(Shape::Text))))
}

/// The key of a stage whose one parameter has this value.
fn key(value: &Value) -> Digest {
    let param =
        Param { name: "env", shape: shape(), default: Some(json!({})), unit: "", doc: String::new(), memory: "" };
    let mut node = load_text(MANIFEST, &[]).unwrap().stages.remove(0);
    node.kind = Arc::new(Fake { kind: "k", version: 1, params: vec![param], ports: &[], output: "x" });
    node.declared = node.kind.params().into();
    node.params = Arc::new(json!({ "env": value }));
    action_key(&node, &BTreeMap::new(), &[], "n").key
}

fn as_json(values: &Values) -> Value {
    serde_json::to_value(values).unwrap()
}

/// The same maps, their entries in the opposite order.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries: Vec<(String, Value)> = map.iter().map(|(k, v)| (k.clone(), reversed(v))).collect();
            Value::Object(entries.into_iter().rev().collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Every value that differs from the given one in one leaf, one name, one list's order or one entry less.
fn neighbours(values: &Values) -> Vec<Values> {
    let mut found = Vec::new();
    for (outer, inner) in values {
        let edit = |change: &dyn Fn(&mut Values)| {
            let mut other = values.clone();
            change(&mut other);
            other
        };
        found.push(edit(&|v| drop(v.remove(outer))));
        found.push(edit(&|v| drop(v.remove(outer).map(|inner| v.insert(format!("{outer}~"), inner)))));
        for (name, list) in inner {
            let at =
                |change: &dyn Fn(&mut Vec<String>)| edit(&|v| change(v.get_mut(outer).unwrap().get_mut(name).unwrap()));
            found.push(edit(&|v| drop(v.get_mut(outer).unwrap().remove(name))));
            found.push(at(&|list| list.push(String::new())));
            for i in 0..list.len() {
                found.push(at(&|list| list[i].push('~')));
                found.push(at(&|list| drop(list.remove(i))));
                if i > 0 && list[i] != list[i - 1] {
                    found.push(at(&|list| list.swap(i, i - 1)));
                }
            }
        }
    }
    found
}

fn values() -> impl Strategy<Value = Values> {
    let list = prop::collection::vec("[ab]{0,2}", 0..4);
    prop::collection::btree_map("[a-c.]{0,2}", prop::collection::btree_map("[a-c]{0,2}", list, 0..4), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_leaf_matters_and_the_order_of_maps_does_not(values in values()) {
        let value = as_json(&values);
        let base = key(&value);
        prop_assert_eq!(key(&reversed(&value)), base);
        for other in neighbours(&values) {
            prop_assert_ne!(key(&as_json(&other)), base, "{:?} {:?}", &values, &other);
        }
    }
}

#[test]
fn what_stands_between_two_maps_stays_there() {
    let distinct = [
        json!({}),
        json!({"a": {}}),
        json!({"a": {"b": []}}),
        json!({"a": {}, "b": {}}),
        json!({"a": {"b": ["c"]}}),
        json!({"ab": {"": ["c"]}}),
        json!({"a": {"b": ["", "c"]}}),
        json!({"a": {"b": []}, "c": {}}),
        json!({"a": {"b": [], "c": []}}),
    ];
    let keys: std::collections::BTreeSet<String> = distinct.iter().map(|value| key(value).to_string()).collect();
    assert_eq!(keys.len(), distinct.len());
}
