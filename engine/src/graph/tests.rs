//! Order, ancestors and cycles of random graphs.
use super::*;
use crate::manifest::tests::fake::registry;
use proptest::prelude::*;

fn pipeline(edges: &[Vec<u32>]) -> Result<Pipeline, Vec<Vec<StageId>>> {
    let registry = registry();
    let kind = registry.get("pass").unwrap();
    let node = |(i, from): (usize, &Vec<u32>)| {
        let inputs = from.iter().enumerate().map(|(port, id)| (format!("p{port}"), StageId(*id))).collect();
        Node::plain(format!("s{i}"), Arc::clone(kind), Value::Null, inputs)
    };
    Pipeline::new(Header::default(), edges.iter().enumerate().map(node).collect())
}

/// Inputs of up to 30 stages, each with any stage as input if `cyclic`, else with an earlier one in a shuffled order.
fn graphs(cyclic: bool) -> impl Strategy<Value = Vec<Vec<u32>>> {
    (1..30usize, any::<u64>()).prop_flat_map(move |(n, shift)| {
        let place = move |i: usize| ((i as u64 * 7 + shift % n as u64) % n as u64) as u32;
        prop::collection::vec(prop::collection::vec(0..n, 0..4), n).prop_map(move |raw| {
            // With a step of 7, `place` is a permutation unless 7 divides n; then stages stay where they are.
            let place = |i: usize| if n.is_multiple_of(7) { i as u32 } else { place(i) };
            let mut edges = vec![Vec::new(); n];
            for (i, from) in raw.iter().enumerate() {
                let allowed = from.iter().filter(|f| cyclic || **f < i);
                edges[place(i) as usize] = allowed.map(|f| place(*f)).collect();
            }
            edges
        })
    })
}

proptest! {
    #[test]
    fn every_stage_comes_once_and_after_its_inputs(edges in graphs(false)) {
        let pipeline = pipeline(&edges).unwrap();
        let mut at = vec![usize::MAX; edges.len()];
        for (i, id) in pipeline.order().iter().enumerate() {
            prop_assert_eq!(at[id.index()], usize::MAX);
            at[id.index()] = i;
        }
        for id in pipeline.ids() {
            for from in &edges[id.index()] {
                prop_assert!(at[*from as usize] < at[id.index()]);
                prop_assert!(pipeline.dependents(StageId(*from)).contains(&id));
            }
            let ancestors = pipeline.ancestors(id);
            prop_assert!(!ancestors.contains(&id));
            prop_assert!(edges[id.index()].iter().all(|from| ancestors.contains(&StageId(*from))));
        }
    }

    #[test]
    fn a_cycle_is_a_closed_path_of_edges(edges in graphs(true)) {
        if let Err(cycles) = pipeline(&edges) {
            for path in cycles {
                prop_assert!(path.len() >= 2 && path.first() == path.last());
                for step in path.windows(2) {
                    prop_assert!(edges[step[1].index()].contains(&step[0].0));
                }
            }
        }
    }
}

#[test]
fn the_first_of_the_manifest_goes_first() {
    let pipeline = pipeline(&[vec![3], vec![], vec![1], vec![]]).unwrap();
    assert_eq!(pipeline.order(), [StageId(1), StageId(2), StageId(3), StageId(0)]);
}
