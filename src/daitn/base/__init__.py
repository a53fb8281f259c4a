"""What everything stands on: ids, units, errors, limits, events and effects, state tables, records."""
