"""What this installation lacks: a finding for each thing that was looked at, with what to do about it.

Each check looks at one thing, changes nothing that stays, and ends within seconds; where a thing
cannot be looked at from here, the finding says so. Nothing here knows Dagster or rows.
"""
