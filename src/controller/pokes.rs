//! Asking for a single object to be reconciled: what a watch of another kind, a database or another object noticed.

use std::sync::Arc;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::runtime::reflector::ObjectRef;

use super::{context::Watched, scope::Scope};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    name::ObjectName,
};

/// The sending ends, for each scope. A poke for an object that is gone, or that nobody watches, does nothing.
#[derive(Clone, Debug)]
pub(super) struct Pokes(Arc<[(Scope, Senders)]>);

#[derive(Debug)]
struct Senders {
    logs: UnboundedSender<ObjectRef<Watched<EventLog>>>,
    sinks: UnboundedSender<ObjectRef<Watched<EventSink>>>,
    triggers: UnboundedSender<ObjectRef<Watched<EventTrigger>>>,
}

/// The receiving ends of one scope, for its three controllers.
pub(super) struct Receivers {
    pub(super) logs: UnboundedReceiver<ObjectRef<Watched<EventLog>>>,
    pub(super) sinks: UnboundedReceiver<ObjectRef<Watched<EventSink>>>,
    pub(super) triggers: UnboundedReceiver<ObjectRef<Watched<EventTrigger>>>,
}

/// The receiving ends are in the order of `scopes`.
pub(super) fn pokes(scopes: &[Scope]) -> (Pokes, Vec<Receivers>) {
    let of = |scope: &Scope| {
        let ((logs, l), (sinks, s), (triggers, t)) = (unbounded(), unbounded(), unbounded());
        ((scope.clone(), Senders { logs, sinks, triggers }), Receivers { logs: l, sinks: s, triggers: t })
    };
    let (senders, receivers): (Vec<_>, Vec<_>) = scopes.iter().map(of).unzip();
    (Pokes(senders.into()), receivers)
}

// Sending fails only when the controllers have ended; then nobody is left to care.
impl Pokes {
    fn of(&self, namespace: &str) -> Option<&Senders> {
        self.0.iter().find(|(scope, _)| scope.holds(namespace)).map(|(_, senders)| senders)
    }

    pub(super) fn log(&self, ObjectName { namespace, name }: &ObjectName) {
        if let Some(senders) = self.of(namespace) {
            let _ = senders.logs.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }

    pub(super) fn sink(&self, ObjectName { namespace, name }: &ObjectName) {
        if let Some(senders) = self.of(namespace) {
            let _ = senders.sinks.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }

    pub(super) fn trigger(&self, ObjectName { namespace, name }: &ObjectName) {
        if let Some(senders) = self.of(namespace) {
            let _ = senders.triggers.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poke_reaches_the_controllers_of_its_namespace_and_no_others() {
        let (pokes, mut receivers) = pokes(&Scope::of(&["shop".to_owned(), "bank".to_owned()]));
        pokes.log(&ObjectName::new("bank", "a"));
        pokes.sink(&ObjectName::new("shop", "b"));
        pokes.trigger(&ObjectName::new("elsewhere", "c"));
        let [bank, shop] = &mut receivers[..] else { panic!("one for each namespace") };
        assert_eq!(bank.logs.try_recv().unwrap(), ObjectRef::new("a").within("bank"));
        assert_eq!(shop.sinks.try_recv().unwrap(), ObjectRef::new("b").within("shop"));
        assert!(shop.logs.try_recv().is_err() && shop.triggers.try_recv().is_err());
        assert!(bank.sinks.try_recv().is_err() && bank.triggers.try_recv().is_err());
    }
}
