"""What a good row is.

Belongs here: the declaration of a contract (`model`, on pandera), its compiled form (`contract`, which
knows no engine), the validation of rows by that form in polars (`polars_engine`) and in Spark
(`spark_engine`), the lexical forms of values written as text (`casts`), and the masking of personal data
(`masking`).

Does not belong here: where rows come from, where they are written, and what happens to rejected rows. Of the
platform, this package imports only `errors`. This file imports nothing, so that code that only needs the
types (`contracts.contract`) loads neither pandera nor an engine:

    from medallion_platform.contracts.model import ContractModel, Field     # to declare
    from medallion_platform.contracts.contract import Contract, Severity    # to read a declaration
    from medallion_platform.contracts import polars_engine                  # to validate, without a JVM
    from medallion_platform.contracts import spark_engine                   # to validate, in Spark
"""
