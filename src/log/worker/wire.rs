//! PostgreSQL's binary forms of the types that the log's tables have and the driver does not know.

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

/// `varbit`: the number of bits in four bytes, then the bits.
pub(super) struct VarBit(pub(super) Bits);

impl FromSql<'_> for VarBit {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        let (length, bits) = raw.split_first_chunk::<4>().ok_or("varbit without a length")?;
        Ok(Self(Bits::new(usize::try_from(i32::from_be_bytes(*length))?, bits.to_vec())))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::VARBIT
    }
}

/// `json` as it was stored: its own text, byte for byte.
pub(super) struct Json(pub(super) String);

impl FromSql<'_> for Json {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Boxed> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}
