"""The pipeline's tables, and the fence of the writes."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, func
from sqlalchemy.dialects.postgresql import (
    BIGINT,
    DOUBLE_PRECISION,
    INTEGER,
    JSONB,
    SMALLINT,
    TEXT,
    TIMESTAMP,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# As published, so that a table of the pipeline fits as it is; see tests/warehouse.
MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
FEATURES = (
    *(f"mean {measure}" for measure in MEASURES),
    *(f"{measure} error" for measure in MEASURES),
    *(f"worst {measure}" for measure in MEASURES),
)
WHEN = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    _make_fence()
    _make_observations()
    _make_predictions()
    _make_models()
    _make_drift()


def downgrade() -> None:
    """Drop the tables and what they hold."""
    for table in ("drift", "metrics", "model_runs", "predictions", "observations", "write_fences"):
        op.drop_table(table)


def _make_fence() -> None:
    op.create_table(
        "write_fences",
        Column("dag_id", TEXT, primary_key=True),
        Column("run_id", TEXT, primary_key=True),
        Column("task_id", TEXT, primary_key=True),
        Column("map_index", INTEGER, primary_key=True, autoincrement=False),
        Column("run_started_at", WHEN, nullable=False),
        Column("try_number", INTEGER, nullable=False),
        Column("seen_at", WHEN, nullable=False, server_default=func.now()),
        comment="The newest try of each task instance that has written.",
    )


def _make_observations() -> None:
    op.create_table(
        "observations",
        Column("observation_id", BIGINT, primary_key=True, autoincrement=False),
        *(Column(name, DOUBLE_PRECISION, nullable=False) for name in FEATURES),
        Column("target", SMALLINT, CheckConstraint("target IN (0, 1)", name="target_is_a_class")),
        Column("source", TEXT),
        Column("stored_at", WHEN, nullable=False, server_default=func.now()),
        comment="Measurements; target is 0 malignant, 1 benign, NULL not known yet.",
    )


def _make_predictions() -> None:
    op.create_table(
        "predictions",
        Column("observation_id", BIGINT, primary_key=True, autoincrement=False),
        Column("model_version", TEXT, primary_key=True),
        Column(
            "score",
            DOUBLE_PRECISION,
            CheckConstraint("score BETWEEN 0 AND 1", name="score_is_a_probability"),
            nullable=False,
        ),
        Column("label", SMALLINT, CheckConstraint("label IN (0, 1)", name="label_is_a_class")),
        Column("scored_at", WHEN, nullable=False, server_default=func.now()),
        comment="One per observation and model version.",
    )


def _make_models() -> None:
    op.create_table(
        "model_runs",
        Column("model_version", TEXT, primary_key=True),
        Column("dag_id", TEXT, nullable=False),
        Column("run_id", TEXT, nullable=False),
        Column("candidate", TEXT, nullable=False),
        Column("trained_at", WHEN, nullable=False),
        Column("details", JSONB),
        comment="Trained models: which run made them, and how.",
    )
    op.create_table(
        "metrics",
        Column("model_version", TEXT, primary_key=True),
        Column("metric", TEXT, primary_key=True),
        Column("value", DOUBLE_PRECISION, nullable=False),
        Column("low", DOUBLE_PRECISION),
        Column("high", DOUBLE_PRECISION),
        comment="A model's figures of merit; low and high bound the confidence interval.",
    )


def _make_drift() -> None:
    op.create_table(
        "drift",
        Column("model_version", TEXT, primary_key=True),
        Column("batch", TEXT, primary_key=True),
        Column("feature", TEXT, primary_key=True),
        Column("psi", DOUBLE_PRECISION, nullable=False),
        Column("rows", BIGINT, nullable=False),
        Column("measured_at", WHEN, nullable=False, server_default=func.now()),
        comment="Population stability index of each feature, and of the score, by batch scored.",
    )
