"""What takes too long for the suite: fuzzing readers and killing commands.  ``make soak`` runs both."""
