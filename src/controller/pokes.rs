//! Asking for a single object to be reconciled: what a watch of another kind, a database or another object noticed.

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::runtime::reflector::ObjectRef;

use super::context::Watched;
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    name::ObjectName,
};

/// The sending ends. A poke for an object that is gone does nothing.
#[derive(Clone, Debug)]
pub(super) struct Pokes {
    logs: UnboundedSender<ObjectRef<Watched<EventLog>>>,
    sinks: UnboundedSender<ObjectRef<Watched<EventSink>>>,
    triggers: UnboundedSender<ObjectRef<Watched<EventTrigger>>>,
}

/// The receiving ends, for the three controllers.
pub(super) struct Receivers {
    pub(super) logs: UnboundedReceiver<ObjectRef<Watched<EventLog>>>,
    pub(super) sinks: UnboundedReceiver<ObjectRef<Watched<EventSink>>>,
    pub(super) triggers: UnboundedReceiver<ObjectRef<Watched<EventTrigger>>>,
}

pub(super) fn pokes() -> (Pokes, Receivers) {
    let ((logs, l), (sinks, s), (triggers, t)) = (unbounded(), unbounded(), unbounded());
    (Pokes { logs, sinks, triggers }, Receivers { logs: l, sinks: s, triggers: t })
}

// Sending fails only when the controllers have ended; then nobody is left to care.
impl Pokes {
    pub(super) fn log(&self, ObjectName { namespace, name }: &ObjectName) {
        let _ = self.logs.unbounded_send(ObjectRef::new(name).within(namespace));
    }

    pub(super) fn sink(&self, ObjectName { namespace, name }: &ObjectName) {
        let _ = self.sinks.unbounded_send(ObjectRef::new(name).within(namespace));
    }

    pub(super) fn trigger(&self, ObjectName { namespace, name }: &ObjectName) {
        let _ = self.triggers.unbounded_send(ObjectRef::new(name).within(namespace));
    }
}
