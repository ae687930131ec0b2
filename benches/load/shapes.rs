//! How requests follow each other: closed loop, open loop, fresh and idle connections, one alone, unread ones, probe.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use trunkline::clock;

use super::client::{Connection, Failure, Setup};
use super::pace::Pace;
use super::plan::{Ask, Plan, Shape};
use super::tally::{Report, Tally};
use super::trouble;
use crate::Outcome;
use crate::machine::Meter;

/// Unanswered requests that an open loop holds at most.
const IN_FLIGHT_MAX: usize = 10_000;
/// A failed request is not repeated at once: a dead chain must not look like a busy one.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// How long a chain may take from its start to its first right answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may fail to open before a measurement is given up.
const FAILURES_MAX: usize = 3;
/// How long answers may take to begin where all are asked for at once.
const HEADS_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections that are opened side by side.
const OPENING: usize = 16;

/// Carries out `plan`.
pub async fn run(plan: &Plan) -> Outcome<Report> {
    let setup = Setup::new(plan)?;
    let tally = Arc::new(Tally::new()?);
    let mut work = JoinSet::new();
    match plan.shape {
        Shape::Closed { connections, streams } => {
            for connection in open(&setup, connections, &tally).await? {
                for _ in 0..streams {
                    work.spawn(repeat(connection.clone(), plan.ask, tally.clone()));
                }
            }
        }
        Shape::Open { connections, rate } => {
            let connections = open(&setup, connections, &tally).await?;
            work.spawn(by_the_clock(connections, Pace::start(rate)?, plan.ask, tally.clone()));
        }
        Shape::Beside { connections, rate, trouble } => {
            let connections = open(&setup, connections, &tally).await?;
            trouble::begin(trouble, setup.connect().await?, &mut work);
            work.spawn(by_the_clock(connections, Pace::start(rate)?, plan.ask, tally.clone()));
        }
        Shape::Fresh { at_once, .. } => {
            for _ in 0..at_once {
                work.spawn(reconnect(setup.clone(), plan.ask, tally.clone()));
            }
        }
        Shape::Idle { connections } => return idle(plan, &setup, connections, &tally).await,
        Shape::Once => return one(plan, &setup, &tally).await,
        Shape::Unread { connections, streams } => return unread(plan, &setup, connections, streams, &tally).await,
        Shape::Probe => return probe(plan, &setup, &tally).await,
    }
    measure(plan, &tally).await
}

/// Counts for the length of the window, after the warm-up.
async fn measure(plan: &Plan, tally: &Tally) -> Outcome<Report> {
    sleep(Duration::from_millis(plan.warm_up_ms)).await;
    let meter = Meter::start(&plan.watch, &plan.bystanders)?;
    tally.set_open(true);
    sleep(Duration::from_millis(plan.window_ms)).await;
    tally.set_open(false);
    Ok(tally.report(meter.stop()?))
}

/// One request from its start on; its end, or that of the window, is that of the measurement.
async fn one(plan: &Plan, setup: &Setup, tally: &Arc<Tally>) -> Outcome<Report> {
    let connection = setup.connect().await?;
    let meter = Meter::start(&plan.watch, &plan.bystanders)?;
    tally.set_open(true);
    let began = clock::now();
    // What the window cuts off has moved bytes all the same.
    if let Ok(result) = timeout(Duration::from_millis(plan.window_ms), connection.fetch(plan.ask, tally)).await {
        tally.ended(began, clock::now(), result);
    }
    tally.set_open(false);
    Ok(tally.report(meter.stop()?))
}

/// Asks for everything at once, reads nothing, and looks at memory when the window is over.
async fn unread(plan: &Plan, setup: &Setup, connections: usize, streams: usize, tally: &Arc<Tally>) -> Outcome<Report> {
    let connections = open(setup, connections, tally).await?;
    let empty = Meter::start(&plan.watch, &plan.bystanders)?;
    let mut asking = JoinSet::new();
    for connection in connections.iter().cycle().take(connections.len() * streams) {
        let (connection, ask) = (connection.clone(), plan.ask);
        asking.spawn(async move { connection.ask(ask).await });
    }
    let mut begun = Vec::new();
    let mut all_begun = async || {
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(Ok(answer)) => begun.push(answer),
                Ok(Err(failure)) => tally.failed(&failure),
                Err(_) => {}
            }
        }
    };
    // Those held up by others never begin; they are missing in the number of requests.
    let _ = timeout(HEADS_TIMEOUT, all_begun()).await;
    let mut report = measure(plan, tally).await?;
    report.requests = begun.len() as u64;
    report.usage.memory_before = empty.memory_before();
    Ok(report)
}

/// Opens so many connections. One that fails is counted and tried again, a few times.
async fn open(setup: &Setup, connections: usize, tally: &Tally) -> Result<Vec<Arc<Connection>>, Failure> {
    let mut opened = Vec::with_capacity(connections);
    let mut failures = 0;
    while opened.len() < connections {
        match setup.connect().await {
            Ok(connection) => opened.push(Arc::new(connection)),
            Err(failure) if failures == FAILURES_MAX => return Err(failure),
            Err(failure) => {
                failures += 1;
                tally.failed(&failure);
            }
        }
    }
    Ok(opened)
}

/// One stream of a closed loop.
async fn repeat(connection: Arc<Connection>, ask: Ask, tally: Arc<Tally>) {
    loop {
        let due = clock::now();
        let result = connection.fetch(ask, &tally).await;
        let failed = result.is_err();
        tally.ended(due, clock::now(), result);
        if failed {
            sleep(AFTER_ERROR).await;
        }
    }
}

/// The open loop. A late request is still counted from when it was due, so that a stall shows in every request it delays.
async fn by_the_clock(connections: Vec<Arc<Connection>>, mut pace: Pace, ask: Ask, tally: Arc<Tally>) {
    let mut flying = JoinSet::new();
    let mut turns = connections.iter().cycle();
    while let Ok(beats) = pace.beat().await {
        for (due, connection) in beats.zip(&mut turns) {
            let (connection, tally) = (connection.clone(), tally.clone());
            if flying.len() >= IN_FLIGHT_MAX {
                tally.failed(&Failure::Overrun);
                continue;
            }
            tally.begun(due);
            flying.spawn(async move {
                let result = connection.fetch(ask, &tally).await;
                tally.ended(due, clock::now(), result);
            });
        }
        while flying.try_join_next().is_some() {}
    }
}

/// A handshake, a request, the end; and again.
async fn reconnect(setup: Setup, ask: Ask, tally: Arc<Tally>) {
    loop {
        let due = clock::now();
        let result = once(&setup, ask, &tally).await;
        let failed = result.is_err();
        tally.ended(due, clock::now(), result);
        if failed {
            sleep(AFTER_ERROR).await;
        }
    }
}

async fn once(setup: &Setup, ask: Ask, tally: &Arc<Tally>) -> Result<(), Failure> {
    setup.connect().await?.fetch(ask, tally).await
}

/// Opens all connections, one request on each, then holds them through the window. The report's memory is that of before
/// the first and after the window, its CPU time that of the window alone.
async fn idle(plan: &Plan, setup: &Setup, connections: usize, tally: &Arc<Tally>) -> Outcome<Report> {
    let empty = Meter::start(&plan.watch, &plan.bystanders)?;
    let mut held = Vec::with_capacity(connections);
    for first in (0..connections).step_by(OPENING) {
        let mut opening = JoinSet::new();
        for _ in first..connections.min(first + OPENING) {
            opening.spawn(asked_once(setup.clone(), plan.ask, tally.clone()));
        }
        held.extend(opening.join_all().await.into_iter().flatten());
    }
    let mut report = measure(plan, tally).await?;
    report.requests = held.len() as u64;
    report.usage.memory_before = empty.memory_before();
    Ok(report)
}

/// A connection that has been of use; a failure is counted.
async fn asked_once(setup: Setup, ask: Ask, tally: Arc<Tally>) -> Option<Connection> {
    let asking = async {
        let connection = setup.connect().await?;
        connection.fetch(ask, &tally).await.map(|()| connection)
    };
    asking.await.map_err(|failure| tally.failed(&failure)).ok()
}

/// Waits until the chain answers rightly.
async fn probe(plan: &Plan, setup: &Setup, tally: &Arc<Tally>) -> Outcome<Report> {
    let meter = Meter::start(&plan.watch, &plan.bystanders)?;
    let mut last = String::from("no answer");
    let asking = async {
        while let Err(failure) = once(setup, plan.ask, tally).await {
            last = failure.to_string();
            sleep(AFTER_ERROR).await;
        }
    };
    let answered = timeout(PROBE_TIMEOUT, asking).await;
    answered.map_err(|_| format!("the chain never answered rightly: {last}"))?;
    Ok(tally.report(meter.stop()?))
}
