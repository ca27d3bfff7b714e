//! The story `bgp-restart`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn a_dead_speaker_leaves_what_is_to_be_kept_and_nothing_else() -> anyhow::Result<()> {
    if !may_make_namespaces("a_dead_speaker_leaves_what_is_to_be_kept_and_nothing_else") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("bgp-restart").expect("there is such a story");
    let evidence = stories::run(story, &format!("br{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() >= 9, "the story stopped early");
    Ok(())
}
