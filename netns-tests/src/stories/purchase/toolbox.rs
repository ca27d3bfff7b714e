//! Point 4: the toolbox knows who is at an address.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{last_line, line_with};
use crate::evidence::Evidence;
use crate::stories::world::World;

pub(super) fn toolbox(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("4", "The toolbox knows who is at the address, from RADIUS");
    evidence.check("before anything is heard of the subscriber it says no", || {
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(answer.to_string())
    });
    evidence.check("a packet signed with another secret gets no answer and changes nothing", || {
        let wrong = world.lab.run_directory().join("wrong-secret");
        fs::write(&wrong, "not-the-secret")?;
        let said = accounting(world, "Start", &wrong.display().to_string())?;
        ensure!(!said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(format!("radclient: {}\n{answer}", last_line(&said)))
    });
    evidence.check("Accounting-Start by radclient is answered, signed properly; now it says yes", || {
        let said = accounting(world, "Start", "{{secrets}}/radius-secret")?;
        ensure!(said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(true)), "{answer}");
        Ok(format!("radclient: {}\n{answer}", line_with(&said, "Received Accounting-Response")))
    });
    evidence.check("another subscriber at that address, and this one at another: no", || {
        let (other, elsewhere) = (verify(world, "bob", "198.51.100.70")?, verify(world, "alice", "198.51.100.71")?);
        for answer in [&other, &elsewhere] {
            ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        }
        Ok(format!("{other}\n{elsewhere}"))
    });
    evidence.check("without a caller's key it answers nobody", || {
        let (status, body) = world.curl("facilitation", &["-d", "{}", "https://198.51.100.2:8444/v1/verify"])?;
        ensure!(status == 401, "{status} {body}");
        Ok(format!("{status} {body}"))
    });
    evidence.check("after Accounting-Stop it says no", || {
        let said = accounting(world, "Stop", "{{secrets}}/radius-secret")?;
        ensure!(said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(answer.to_string())
    });
}

/// Sends one Accounting-Request from the edge router; gives what radclient says.
fn accounting(world: &World<'_>, status: &str, secret_file: &str) -> Result<String> {
    let file = world.lab.run_directory().join("accounting.txt");
    fs::write(
        &file,
        format!(
            "Acct-Status-Type = {status}\nAcct-Session-Id = \"0001\"\nUser-Name = \"alice\"\n\
             Framed-IP-Address = 198.51.100.70\nNAS-IP-Address = 198.51.100.1\nAcct-Session-Time = 1\n"
        ),
    )?;
    let file = file.display().to_string();
    let words = ["radclient", "-x", "-r", "1", "-t", "2", "-S", secret_file, "-f", &file, "198.51.100.2:1813", "acct"];
    let said = world.lab.exec("edge", &words)?;
    Ok(said.stdout + &said.stderr)
}

fn verify(world: &World<'_>, subscriber: &str, address: &str) -> Result<Value> {
    let key = fs::read_to_string(world.lab.run_directory().join("secrets/toolbox-caller-key"))?;
    let (bearer, body) =
        (format!("Authorization: Bearer {key}"), json!({ "address": address, "subscriber": subscriber }).to_string());
    let words = ["-H", &bearer, "-H", "Content-Type: application/json", "-d", &body];
    let url = "https://198.51.100.2:8444/v1/verify";
    let (status, body) = world.curl("facilitation", &[&words[..], &[url]].concat())?;
    ensure!(status == 200, "{status} {body}");
    Ok(serde_json::from_str(&body)?)
}
