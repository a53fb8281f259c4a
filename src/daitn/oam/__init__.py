"""Operations and management (OAM): progress, audit, alarms; everyone emits, only oam collects."""
