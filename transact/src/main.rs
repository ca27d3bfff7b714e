//! `transaction-server`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakway_runtime::role::main::<transact::TransactionServer>()
}
