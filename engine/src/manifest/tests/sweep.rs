//! Sweeps: what becomes of them, and what is said of wrong ones.
use super::*;

const SWEPT: &str = r#"
[experiment]
name = "demo"

[stages.base]
kind = "load"
model = "models/base"

[stages.data]
kind = "load"
dataset = { format = "tat-qa", train = "train.json" }

[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }

[stages.lora]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens" }
rate = 1
"#;

fn names(text: &str) -> Vec<String> {
    match load_text(&format!("{SWEPT}{text}"), &[]) {
        Ok(pipeline) => pipeline.stages.iter().map(|node| node.name.clone()).collect(),
        Err(problems) => panic!("{problems}"),
    }
}

fn told(text: &str) -> String {
    problems(&format!("{SWEPT}rank = 8\n{text}"), &[])
}

#[test]
fn a_grid_multiplies_what_it_reaches_and_nothing_else() {
    let text = "[sweep.grid]\n\"lora.rank\" = [1, 2]\nlora.schedule = [\"linear\", \"cosine\"]\n";
    let lora: Vec<String> = names(text).into_iter().filter(|name| name.starts_with("lora")).collect();
    assert_eq!(
        lora,
        [
            "lora[rank=1,schedule=linear]",
            "lora[rank=1,schedule=cosine]",
            "lora[rank=2,schedule=linear]",
            "lora[rank=2,schedule=cosine]"
        ]
    );
    assert_eq!(names(text).len(), 3 + 4);
    // `rank` is required and given by the sweep alone.
    let pipeline = load_text(&format!("{SWEPT}{text}"), &[]).unwrap();
    let last = pipeline.node(pipeline.find("lora[rank=2,schedule=cosine]").unwrap());
    assert_eq!((&last.resolved()["rank"], &last.resolved()["schedule"]), (&json!(2), &json!("cosine")));
    assert_eq!(pipeline.find_all("lora").len(), 4);
    assert_eq!(pipeline.order().len(), 7);
}

#[test]
fn lists_go_together_and_an_ablation_changes_one_thing_at_a_time() {
    let text = "[sweep.zip]\n\"lora.rank\" = [1, 2]\n\"lora.rate\" = [0.1, 0.2]\n";
    // The axes are named in the order of the manifest.
    assert_eq!(names(text)[3..], ["lora[rank=1,rate=0.1]", "lora[rank=2,rate=0.2]"]);
    let text = "rank = 8\n[sweep.ablate]\n\"lora.rank\" = 1\n\"lora.modules\" = [\"q_proj\"]\n\"lora.rate\" = [2, 3]\n";
    assert_eq!(
        names(text)[3..],
        ["lora", "lora[rank=1]", "lora[modules=[\"q_proj\"]]", "lora[rate=2.0]", "lora[rate=3.0]"]
    );
}

#[test]
fn the_seed_reaches_everything() {
    let pipeline = load_text(&format!("{SWEPT}rank = 8\n[sweep.grid]\n\"experiment.seed\" = [1, 2]\n"), &[]).unwrap();
    assert_eq!(pipeline.stages.len(), 8);
    let seeds: Vec<u64> = pipeline.find_all("lora").iter().map(|id| pipeline.node(*id).seed).collect();
    assert_eq!(seeds, [1, 2]);
    let node = pipeline.node(pipeline.find("lora[seed=2]").unwrap());
    assert_eq!(pipeline.node(node.inputs[0].1).name, "base[seed=2]");
}

#[test]
fn a_wrong_sweep_is_told_with_its_places_before_anything_runs() {
    assert_snapshot!(told("[sweep]\ngird = {}\n[sweep.grid]\n\"lora.rnak\" = [1]\n\"lroa.rank\" = [1]\n\"lora\" = [1]\n\"lora.inputs.model\" = [\"base\"]\n\"lora.timeout\" = [1]\n\"experiment.name\" = [\"a\"]\n"), @r"
    m.toml:23:1: error: unknown key `gird`: not a key of table `sweep` (did you mean `grid`?)
    m.toml:25:1: error: stage kind `train-lora` has no parameter `rnak` (did you mean `rank`?)
    m.toml:26:1: error: there is no stage `lroa` to sweep over (did you mean `lora`?)
    m.toml:27:1: error: `lora` names no parameter (write `STAGE.PARAMETER`)
    m.toml:28:1: error: `inputs` cannot be swept (only parameters of a stage can)
    m.toml:29:1: error: `timeout` cannot be swept (only parameters of a stage can)
    m.toml:30:1: error: `experiment.name` cannot be swept (of the experiment only `experiment.seed` can)
    ");
    assert_snapshot!(told("[sweep.grid]\n\"lora.rank\" = [1, 0, \"2\", 1]\n\"lora.rate\" = 3\n\"lora.schedule\" = []\n[sweep.zip]\n\"lora.rank\" = [1]\n"), @r"
    m.toml:23:19: error: `rank` is out of range: expected an integer from 1 to 1024
    m.toml:23:22: error: `rank` cannot be text: expected an integer from 1 to 1024 (leave out the quotes)
    m.toml:23:27: error: this value is there twice
    m.toml:24:15: error: a sweep needs a list of values (a list of one is written `[3]`)
    m.toml:25:19: error: this list of values is empty
    m.toml:27:1: error: `lora.rank` is swept twice
    ");
    assert_snapshot!(told("[sweep.zip]\n\"lora.rank\" = [1, 2]\n\"lora.rate\" = [1]\n"), @"m.toml:24:1: error: `lora.rate` has 1 values and `lora.rank` has 2 (lists in `sweep.zip` go together, so they have one length)");
    assert_snapshot!(told("[sweep]\nassume_monotone = \"rnak\"\n[sweep.grid]\n\"lora.rank\" = [1, 2]\n"), @"m.toml:23:19: error: `rnak` is not swept (swept are: `lora.rank`)");
    assert_snapshot!(told("[sweep]\nassume_monotone = \"schedule\"\n[sweep.grid]\n\"lora.schedule\" = [\"linear\"]\n"), @"m.toml:23:19: error: `schedule` is no number, so it has no larger values");
    // Each cell is checked by its kind.
    assert_snapshot!(told("[sweep.grid]\n\"lora.rank\" = [12, 13]\n\"lora.rate\" = [1, 2]\n"), @r"
    m.toml:23:20: error: rank 13 is unlucky: with lora.rank=13,lora.rate=1.0
    m.toml:23:20: error: rank 13 is unlucky: with lora.rank=13,lora.rate=2.0
    ");
}

#[test]
fn a_sweep_of_a_million_cells_must_be_meant() {
    let axis = |name: &str| format!("\"{name}\" = {:?}\n", (1..=1000).collect::<Vec<u32>>());
    let text = format!("{SWEPT}[sweep.grid]\n{}{}", axis("lora.rank"), axis("lora.max_steps"));
    assert_snapshot!(problems(&text, &[]), @"m.toml:21:2: error: this sweep has 1000000 cells: combines `lora.rank`, `lora.max_steps` (take values away, or add `--yes` if you mean it)");
    // More than could be counted, let alone made.
    let seeds = axis("experiment.seed") + &axis("lora.rank") + &axis("lora.max_steps");
    let huge = format!("{SWEPT}[sweep.grid]\n{seeds}[sweep.ablate]\n\"lora.rate\" = [1, 2]\n");
    assert!(problems(&huge, &[]).contains("this sweep has 3000000000 cells"), "{}", problems(&huge, &[]));
}

#[test]
fn options_of_a_stage_are_no_parameters() {
    let text =
        format!("{SWEPT}rank = 8\ntimeout = 60\nmemory_limit = \"2 GiB\"\nthreads = 2\ngpus = 1\nkeep = \"metrics\"\n");
    let pipeline = load_text(&text, &[]).unwrap();
    let node = pipeline.node(pipeline.find("lora").unwrap());
    assert_eq!(node.options.memory_limit_mib, Some(2048));
    assert_eq!(node.options.keep, crate::options::Keep::Metrics);
    assert!(node.params.get("timeout").is_none());
    assert_snapshot!(problems(&format!("{SWEPT}rank = 8\ntimeout = 0\nmemory_limit = \"2\"\nkeep = \"some\"\nthreads = \"2\"\n"), &[]), @r"
    m.toml:22:11: error: `timeout` is out of range: expected a number from 0.001 to 31536000 (s)
    m.toml:24:8: error: `keep` cannot be `some`: expected one of `all`, `metrics`
    m.toml:25:11: error: `threads` cannot be text: expected an integer from 1 to 4096 (leave out the quotes)
    ");
    assert_snapshot!(problems(&format!("{SWEPT}rank = 8\nmemory_limit = \"2\"\n"), &[]), @r#"m.toml:22:16: error: `2` is no amount of memory (write a number and a unit, such as `"40 GiB"`)"#);
}

#[test]
fn smaller_is_a_cell_that_is_smaller_along_all_that_goes_together() {
    let text = "[sweep]\nassume_monotone = \"lora.rank\"\n[sweep.zip]\n\"lora.rank\" = [1, 2, 4, 3]\n\"lora.max_steps\" = [1, 2, 4, 5]\n[sweep.grid]\n\"lora.rate\" = [0.1, 0.2]\n";
    let pipeline = load_text(&format!("{SWEPT}{text}"), &[]).unwrap();
    let id = |rank: u32, steps: u32, rate: &str| {
        // The grid is the first group; the axes are named in the order of the manifest.
        pipeline.find(&format!("lora[rank={rank},max_steps={steps},rate={rate}]")).unwrap()
    };
    let axis = pipeline.sweep.monotone.unwrap();
    let smaller = |a, b| pipeline.is_smaller(a, b, axis);
    assert!(smaller(id(1, 1, "0.1"), id(2, 2, "0.1")));
    assert!(smaller(id(2, 2, "0.2"), id(4, 4, "0.2")));
    assert!(!smaller(id(2, 2, "0.1"), id(1, 1, "0.1")) && !smaller(id(2, 2, "0.1"), id(2, 2, "0.1")));
    // More steps with a smaller rank say nothing; neither does another point of the grid.
    assert!(!smaller(id(3, 5, "0.1"), id(4, 4, "0.1")));
    assert!(!smaller(id(1, 1, "0.1"), id(2, 2, "0.2")));
}

#[test]
fn a_wrong_sweep_or_a_circle_hides_no_other_mistake() {
    let unlucky = "rank = 13\n";
    let wrong = problems(&format!("{SWEPT}{unlucky}[sweep.grid]\n\"lora.rnak\" = [1]\n"), &[]);
    assert!(wrong.contains("rank 13 is unlucky") && wrong.contains("no parameter `rnak`"), "{wrong}");
    let circle = format!(
        "{SWEPT}{unlucky}[stages.one]\nkind = \"tokenize\"\ninputs = {{ model = \"two\", dataset = \"data\" }}\n[stages.two]\nkind = \"train-lora\"\nrank = 1\ninputs = {{ model = \"base\", tokens = \"one\" }}\n[sweep.grid]\n\"two.rate\" = [1, 2]\n\"base.model\" = [\"models/base\"]\n"
    );
    let told = problems(&circle, &[]);
    assert!(told.contains("rank 13 is unlucky") && told.contains("one"), "{told}");
}
