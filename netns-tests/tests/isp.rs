//! The story `isp`, as `cargo lab` tells it, with 200 purchases unless `ISP_PURCHASES` says otherwise.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn purchases_from_behind_a_nat_are_attributed_to_who_the_clients_say_they_are() -> anyhow::Result<()> {
    if !may_make_namespaces("purchases_from_behind_a_nat_are_attributed_to_who_the_clients_say_they_are") {
        return Ok(());
    }
    stories::build_programs()?;
    let evidence = stories::run(&stories::isp::few(), &format!("is{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 10, "the story stopped early");
    Ok(())
}
