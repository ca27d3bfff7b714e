//! The story `crash`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn no_crash_loses_or_doubles_an_order() -> anyhow::Result<()> {
    if !may_make_namespaces("no_crash_loses_or_doubles_an_order") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("crash").expect("there is such a story");
    let evidence = stories::run(story, &format!("cr{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 20, "the story stopped early");
    Ok(())
}
