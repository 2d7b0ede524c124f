//! One file per command.

mod any_certificate;
pub mod check;
pub mod crd;
mod demo;
mod demo_manifests;
mod echo;
mod probe;
mod serve;

use std::{io, process::ExitCode, time::SystemTime};

use crate::{
    app,
    args::{Arguments, CheckArguments, Command},
    compile::{CompileSettings, Memory, Surroundings, compile},
    table::Tenancy,
};

/// Runs the command.
///
/// # Errors
/// If it fails, with what to do about it.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Controller(arguments) => serve::controller(arguments)?,
        Command::Standalone(arguments) => serve::standalone(arguments)?,
        Command::Demo(arguments) => demo::run(arguments)?,
        Command::Check(arguments) => return check(arguments),
        Command::Crd => crd::run(&mut io::stdout())?,
        Command::Probe(arguments) => return probe::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: CheckArguments) -> anyhow::Result<ExitCode> {
    let CheckArguments { paths, objects_only, class, allow_shared_hostnames, hostname_owners } = arguments;
    let owners = hostname_owners.as_deref().map(app::hostname_owners).transpose()?.unwrap_or_default();
    let settings = CompileSettings {
        class,
        tenancy: if allow_shared_hostnames { Tenancy::Shared } else { Tenancy::Separate(owners.into()) },
        default_certificate: None,
        surroundings: Surroundings::Machine { admin: serve::DEFAULTS.admin },
    };
    let verdicts = |view: &_| {
        if objects_only {
            return Vec::new();
        }
        compile(view, &settings, &mut Memory::default(), SystemTime::now()).verdicts
    };
    Ok(check::run(&paths, verdicts, &mut io::stdout())?)
}
