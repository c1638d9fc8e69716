"""What a good row is.

Belongs here: the declaration of a contract (`model`, on pandera), its compiled form (`contract`, which
knows no engine), the validation of rows by that form in polars (`polars_engine`) and in Spark
(`spark_engine`), the lexical forms of values written as text (`casts`), and the masking of personal data
(`masking`).

Does not belong here: where rows come from, where they are written, and what happens to a row that was
rejected. This room imports nothing of the platform. This file imports nothing at all, so that who only
needs the types (`contracts.contract`) pays neither for pandera nor for an engine:

    from medallion_platform.contracts.model import ContractModel, Field     # to declare
    from medallion_platform.contracts.contract import Contract, Severity    # to read a declaration
    from medallion_platform.contracts import polars_engine                  # to validate, without a JVM
    from medallion_platform.contracts import spark_engine                   # to validate, in Spark
"""
