"""The only place for I/O: fabric, enrolment, store, sandbox, readers, HTTP, clock."""
