use super::*;
use proptest::prelude::*;
use serde_json::json;

fn axis(key: &str, stage: usize, values: &[i64]) -> Axis {
    Axis::new(key.to_owned(), Some(stage), values.iter().map(|v| json!(v)).collect())
}

fn grid(axis: u32, values: u32) -> Vec<Setting> {
    (0..values).map(|value| vec![(axis, value)]).collect()
}

/// a -> b -> c, and d alone; b and d are swept.
fn chain() -> (Sweep, Layout) {
    let sweep = Sweep {
        axes: vec![axis("b.x", 1, &[1, 2, 3]), axis("d.y", 3, &[7, 8])],
        groups: vec![grid(0, 3), grid(1, 2)],
        monotone: None,
    };
    let layout = Layout::new(&sweep, &[vec![], vec![0], vec![1], vec![]], &[0, 1, 2, 3]);
    (sweep, layout)
}

#[test]
fn a_stage_has_an_instance_for_what_reaches_it_and_no_more() {
    let (sweep, layout) = chain();
    assert_eq!(sweep.cells(), 6);
    let counts: Vec<usize> = (0..4).map(|stage| layout.count(stage)).collect();
    assert_eq!(counts, [1, 3, 3, 2]);
    assert_eq!(layout.variants(1), 3);
    assert_eq!(layout.variants(2), 1);
    for instance in 0..3 {
        assert_eq!(layout.setting(2, instance), [(0, instance as u32)]);
        assert_eq!(layout.upstream(2, instance, 1), instance);
        assert_eq!(layout.upstream(1, instance, 0), 0);
        assert_eq!(layout.variant(1, instance), instance);
        assert_eq!(layout.variant(2, instance), 0);
    }
}

#[test]
fn an_ablation_has_a_baseline_and_one_change_at_a_time() {
    let sweep = Sweep {
        axes: vec![axis("a.x", 0, &[1]), axis("b.y", 1, &[2, 3])],
        groups: vec![vec![vec![], vec![(0, 0)], vec![(1, 0)], vec![(1, 1)]]],
        monotone: None,
    };
    let layout = Layout::new(&sweep, &[vec![], vec![0]], &[0, 1]);
    assert_eq!((sweep.cells(), layout.count(0), layout.count(1)), (4, 2, 4));
    // What changes b alone shares the baseline of a.
    let needs: Vec<usize> = (0..4).map(|instance| layout.upstream(1, instance, 0)).collect();
    assert_eq!(needs, [0, 1, 0, 0]);
}

#[test]
fn words_and_ids_depend_on_content_alone() {
    let (sweep, _) = chain();
    assert_eq!(sweep.words(&[(0, 1), (1, 0)], 1), "x=2,d.y=7");
    let turned =
        Sweep { axes: vec![axis("d.y", 3, &[8, 7]), axis("b.x", 1, &[2])], groups: Vec::new(), monotone: None };
    assert_eq!(sweep.id(&[(0, 1), (1, 0)]), turned.id(&[(0, 1), (1, 0)]));
    assert_ne!(sweep.id(&[(0, 1), (1, 0)]), sweep.id(&[(0, 1), (1, 1)]));
    assert_eq!(label(&json!("none")), "none");
    assert_eq!(label(&json!("a,b=c")), "\"a,b=c\"");
    assert_eq!(label(&json!(["q", "v"])), r#"["q","v"]"#);
}

proptest! {
    /// On a layered graph with any axes: an instance's setting agrees with the setting of everything that it needs,
    /// settings of a stage are distinct, and every cell finds its instance.
    #[test]
    fn instances_agree_with_what_they_need(
        edges in proptest::collection::vec(proptest::collection::vec(any::<proptest::sample::Index>(), 0..3), 1..5),
        swept in proptest::collection::vec((any::<proptest::sample::Index>(), 1u32..4, 0u8..2), 0..4),
    ) {
        let inputs: Vec<Vec<usize>> = edges
            .iter()
            .enumerate()
            .map(|(at, from)| if at == 0 { vec![] } else { from.iter().map(|i| i.index(at)).collect() })
            .collect();
        let mut sweep = Sweep::default();
        let mut together: Vec<Setting> = vec![vec![]];
        for (stage, values, how) in &swept {
            let at = sweep.axes.len() as u32;
            let numbers: Vec<i64> = (0..i64::from(*values)).collect();
            sweep.axes.push(axis(&format!("s.p{at}"), stage.index(inputs.len()), &numbers));
            if *how == 0 { sweep.groups.push(grid(at, *values)) } else { together.extend(grid(at, *values)) }
        }
        sweep.groups.push(together);
        let order: Vec<usize> = (0..inputs.len()).collect();
        let layout = Layout::new(&sweep, &inputs, &order);
        for (stage, needs) in inputs.iter().enumerate() {
            let settings: Vec<Setting> = (0..layout.count(stage)).map(|i| layout.setting(stage, i)).collect();
            prop_assert!(layout.count(stage) <= sweep.cells());
            prop_assert_eq!(settings.iter().collect::<BTreeSet<_>>().len(), settings.len());
            for (instance, setting) in settings.iter().enumerate() {
                for &from in needs {
                    let theirs = layout.setting(from, layout.upstream(stage, instance, from));
                    prop_assert!(theirs.iter().all(|pair| setting.contains(pair)), "{:?} {:?}", setting, theirs);
                    let reach = &layout.reach[from];
                    let expected: Setting = setting.iter().copied().filter(|(axis, _)| reach.contains(axis)).collect();
                    prop_assert_eq!(theirs, expected);
                }
                let own = layout.variant_setting(stage, layout.variant(stage, instance));
                prop_assert!(own.iter().all(|pair| setting.contains(pair)));
            }
        }
    }
}
