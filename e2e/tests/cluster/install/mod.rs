//! The operator's installation itself: by the Helm chart and by kustomize, what it may do, and what it leaves. These tests
//! put the operator away and back again, so they run one after the other, once all others are through.

mod audit;
mod files;
mod lifecycle;
mod namespaces;
mod operations;
mod page;
mod pods;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use super::{
    cluster::eventually,
    scene::{OPERATOR_NAMESPACE, PATIENCE},
};

/// The release that `e2e/operator.sh` has installed.
const RELEASE: &str = "eventtrigger";
/// What the controller is to the API server.
const ACCOUNT: &str = "system:serviceaccount:eventtrigger-system:eventtrigger-controller";

/// Something in the repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The chart, as it is committed.
static CHART: LazyLock<String> = LazyLock::new(|| in_repository("charts/eventtrigger").display().to_string());

/// A program in Go, at the version that `e2e/tools/go.mod` pins.
fn tool(name: &str) -> String {
    let tool = in_repository("e2e/tools/tool");
    let path = run(Command::new(&tool).arg(name)).unwrap_or_else(|error| panic!("no {name}: {error}"));
    path.trim().to_owned()
}

/// Runs a program; returns what it wrote, or what went wrong.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?}: {}: {}{}", output.status, text(&output.stderr), text(&output.stdout)))
}

/// Runs Helm, in the operator's namespace.
fn try_helm(arguments: &[&str]) -> Result<String, String> {
    static HELM: LazyLock<String> = LazyLock::new(|| tool("helm"));
    run(Command::new(&*HELM).args(["--namespace", OPERATOR_NAMESPACE]).args(arguments))
}

fn helm(arguments: &[&str]) -> String {
    try_helm(arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// Brings the release to the chart as committed, with its own values but for `values`, and waits until the operator is ready.
fn upgrade(values: &[&str]) {
    // A pod of the version before, which is about to go, must not be taken for the new one: hence the wait.
    let mut arguments = vec!["upgrade", "--install", "--reset-values", "--hide-notes", RELEASE, &CHART];
    arguments.extend(["--wait", "--timeout", "2m", "--create-namespace"]);
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    helm(&arguments);
}

fn kubectl(arguments: &[&str]) -> String {
    run(Command::new("kubectl").args(arguments)).unwrap_or_else(|error| panic!("{error}"))
}

/// The commands in a page, or a part of it, in order.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", "");
    let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("$ ").map(str::to_owned)).collect();
    assert!(!commands.is_empty(), "no command in {text}");
    commands
}

/// A line of a shell, in the repository, with Helm where the shell looks for programs.
fn line(line: &str) -> Command {
    let helm = tool("helm");
    let folder = Path::new(&helm).parent().expect("a folder").display();
    let path = format!("{folder}:{}", env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(in_repository(".")).env("PATH", path);
    command
}

/// Runs a line as it stands.
fn shell(line: &str) -> String {
    run(&mut self::line(line)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs lines one after the other. One that ends in `&` goes on beside those after it, which may have to wait for it.
async fn follow<S: AsRef<str>>(lines: &[S]) {
    let mut beside = Vec::new();
    for line in lines {
        let line = line.as_ref();
        if let Some(line) = line.strip_suffix(" &") {
            let mut command = tokio::process::Command::from(self::line(&format!("exec {line}")));
            beside.push(command.stdout(Stdio::null()).kill_on_drop(true).spawn().expect("start a shell"));
        } else if beside.is_empty() {
            shell(line);
        } else {
            eventually(PATIENCE, line, async || run(&mut self::line(line))).await;
        }
    }
}
