"""The MQTT link, delivery of the outbox, identity and enrolment."""
