//! Compiles the fast path with clang.
//!
//! Without clang, or without the headers that it needs, an empty object is built in, and the data plane `bpf` says so
//! when it is asked for. The rest of the forwarder works without it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// With the headers that it is made of.
const FOLDER: &str = "bpf";
const SOURCE: &str = "bpf/fast_path.c";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-env-changed=PATH");
    let object = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("fast_path.o");
    if let Some(why) = compile(&object)? {
        println!("cargo::warning=the data plane `bpf` is not built in: {why} (Debian: apt install clang libbpf-dev)");
        std::fs::write(&object, []).map_err(|error| format!("{}: {error}", object.display()))?;
        // A file that is never there: the next build tries again.
        println!("cargo::rerun-if-changed=bpf/built-without-clang");
    }
    Ok(())
}

/// Gives what the machine lacks; an error is a mistake in the source.
fn compile(object: &Path) -> Result<Option<String>, String> {
    let machine = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let output = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"])
        // Where Debian has the headers of the machine; clang looks there for its own target only.
        .arg(format!("-I/usr/include/{machine}-linux-gnu"))
        .args(["-c", SOURCE, "-o"])
        .arg(object)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Ok(Some(format!("clang: {error}"))),
    };
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    match said.lines().find(|line| line.contains("file not found")) {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(format!("{SOURCE} does not compile:\n{said}")),
    }
}
