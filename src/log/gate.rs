//! Between the logger and an outlet: drops and counts what the outlet does not take at once.

use std::sync::{Mutex, PoisonError};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, record};

/// Where records leave the program.
pub(super) trait Outlet: Send {
    /// Hands a record over without ever waiting; false if it is lost.
    fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool;
}

/// A drain that never waits, never fails, and says how many records were lost when it can again.
pub(super) struct Gate<O>(Mutex<State<O>>);

struct State<O> {
    outlet: O,
    /// Records lost since the last report of a loss.
    lost: u64,
}

impl<O: Outlet> Gate<O> {
    pub(super) fn new(outlet: O) -> Self {
        Self(Mutex::new(State { outlet, lost: 0 }))
    }
}

impl<O: Outlet> Drain for Gate<O> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.report_loss(values) && state.outlet.send(record, values) {
            return Ok(());
        }
        state.lost = state.lost.saturating_add(1);
        Ok(())
    }
}

impl<O: Outlet> State<O> {
    /// Whether nothing is left to report.
    fn report_loss(&mut self, values: &OwnedKVList) -> bool {
        if self.lost == 0 {
            return true;
        }
        let lost = self.lost;
        let told = self.outlet.send(
            &record!(
                Level::Warning,
                "",
                &format_args!("log records were lost: the log did not take them"),
                b!("count" => lost)
            ),
            values,
        );
        if told {
            self.lost = 0;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slog::{Logger, info, o};

    use super::super::line;
    use super::*;

    /// Takes as many records as there is room for.
    #[derive(Clone, Default)]
    struct Narrow(Arc<Mutex<(usize, Vec<String>)>>);

    impl Narrow {
        fn room(&self, records: usize) {
            self.0.lock().unwrap().0 = records;
        }

        fn taken(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap().1)
        }
    }

    impl Outlet for Narrow {
        fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool {
            let mut state = self.0.lock().unwrap();
            if state.0 == 0 {
                return false;
            }
            state.0 -= 1;
            let mut text = record.level().as_str().to_owned();
            text.push(' ');
            line::append(&mut text, record, values);
            state.1.push(text);
            true
        }
    }

    #[test]
    fn lost_records_are_counted_and_told_before_the_next_one() {
        let outlet = Narrow::default();
        let log = Logger::root(Gate::new(outlet.clone()), o!());
        outlet.room(1);
        for number in 0..4 {
            info!(log, "record {number}");
        }
        assert_eq!(outlet.taken(), ["INFO record 0"]);
        outlet.room(9);
        info!(log, "again");
        info!(log, "and again");
        assert_eq!(
            outlet.taken(),
            ["WARNING log records were lost: the log did not take them count=3", "INFO again", "INFO and again"]
        );
    }

    #[test]
    fn a_record_lost_right_after_the_report_counts_anew() {
        let outlet = Narrow::default();
        let log = Logger::root(Gate::new(outlet.clone()), o!());
        info!(log, "lost");
        outlet.room(1);
        info!(log, "lost after the report");
        outlet.room(2);
        info!(log, "seen");
        let taken = outlet.taken();
        assert!(taken.iter().filter(|line| line.ends_with("count=1")).count() == 2, "{taken:?}");
        assert_eq!(taken.last().unwrap(), "INFO seen");
    }
}
