//! PostgreSQL's binary forms of the types that the log's tables have and the driver does not know.

use std::{borrow::Cow, str::FromStr};

use jiff::Timestamp;
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, private::BytesMut, to_sql_checked};

use crate::log::{
    event::Bits,
    snapshot::{Snapshot, Txid},
};

type Boxed = Box<dyn std::error::Error + Sync + Send>;

/// `xid8`: eight bytes, big end first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Xid8(pub(super) Txid);

impl FromSql<'_> for Xid8 {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        Ok(Self(Txid::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "xid8" && *ty.kind() == Kind::Simple
    }
}

impl ToSql for Xid8 {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        <Self as FromSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// `pg_snapshot`: the number of ids in progress in four bytes, then xmin, xmax and those ids in eight each.
#[derive(Debug)]
pub(super) struct PgSnapshot<'a>(pub(super) &'a Snapshot);

impl ToSql for PgSnapshot<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        out.extend_from_slice(&i32::try_from(self.0.missing().len())?.to_be_bytes());
        for txid in [self.0.complete_below(), self.0.end()].iter().chain(self.0.missing()) {
            out.extend_from_slice(&txid.to_be_bytes());
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_SNAPSHOT || ty.name() == "pg_snapshot"
    }

    to_sql_checked!();
}

/// `timestamptz`: microseconds since 2000 in eight bytes.
#[derive(Debug)]
pub(super) struct Moment(pub(super) Timestamp);

impl FromSql<'_> for Moment {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        // The ends of the type stand for infinity.
        let since_1970 = since_2000.checked_add(946_684_800_000_000).ok_or("infinity")?;
        Ok(Self(Timestamp::from_microsecond(since_1970)?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// `varbit`: the number of bits in four bytes, then the bits.
pub(super) struct VarBit(pub(super) Bits);

impl FromSql<'_> for VarBit {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        let (length, bits) = raw.split_first_chunk::<4>().ok_or("varbit without a length")?;
        Ok(Self(Bits::new(usize::try_from(i32::from_be_bytes(*length))?, bits)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::VARBIT
    }
}

/// `json` as it was stored: its own text, byte for byte. A setting that came with the connection is the one thing that
/// PostgreSQL does not check for its encoding: what is not UTF-8 in it is replaced, and nothing stands still for it.
pub(super) struct Json(pub(super) String);

impl FromSql<'_> for Json {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        // The strict way is the faster one.
        let text = str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed);
        Ok(Self(text.into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}

/// `tid`: where a row is, its block in four bytes and its place there in two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tid {
    block: u32,
    place: u16,
}

impl FromSql<'_> for Tid {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        let (block, place) = raw.split_first_chunk::<4>().ok_or("tid without a block")?;
        Ok(Self { block: u32::from_be_bytes(*block), place: u16::from_be_bytes(place.try_into()?) })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }
}

impl ToSql for Tid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        out.extend_from_slice(&self.block.to_be_bytes());
        out.extend_from_slice(&self.place.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        <Self as FromSql>::accepts(ty)
    }

    to_sql_checked!();
}

impl FromStr for Tid {
    type Err = Boxed;

    /// As PostgreSQL writes it: `(block,place)`.
    fn from_str(text: &str) -> Result<Self, Boxed> {
        let numbers = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')?.split_once(','));
        let (block, place) = numbers.ok_or("not a tid")?;
        Ok(Self { block: block.parse()?, place: place.parse()? })
    }
}
