"""What datasets say of pictures beside captions, for trainers and evaluations: questions and answers, domains."""
